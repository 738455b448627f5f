"""What the scripts that drive Chromium share: how it is started, and what watches an answer in a page."""

from __future__ import annotations

import shutil

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE = 120_000  # milliseconds


def chromium() -> str:
    """Where the system's Chromium is. Ends the program where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise SystemExit("no chromium on PATH; apt-get install chromium")


def watch(text: str) -> str:
    """JavaScript that notes the milliseconds from the event that the hand causes to the first change of the answer after it.

    ``text``: the property of the answer that is compared, ``innerText`` or ``textContent``.
    """
    return (
        """
() => {
  window.answers = [];
  const text = () => document.querySelector(".of-answer strong")?."""
        + text
        + """ ?? "";
  let since = 0, before = "";
  document.addEventListener("pointerdown", (event) => {
    if (!event.composedPath().some((each) => each.tagName === "CANVAS")) return;
    since = performance.now(); before = text(); }, true);
  new MutationObserver(() => {
    if (since && text() && text() !== before) { window.answers.push(performance.now() - since); since = 0; }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""
    )
