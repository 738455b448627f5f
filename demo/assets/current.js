// Says which link of the bar leads to the page that is shown, which Streamlit shows by a colour alone; where the bar scrolls, it comes in sight.
let shown = -1, observed = null;

export default function ({ data }) {
  const bar = document.querySelector(".st-key-menu");
  shown = data.at;
  mark(bar);
  if (observed === bar) return;
  observed = bar;
  new MutationObserver(() => mark(bar)).observe(bar, { childList: true, subtree: true });  // links may come after this, or be made anew
}

function mark(bar) {
  [...bar.querySelectorAll("a")].forEach((link, at) => {
    if (at !== shown) link.removeAttribute("aria-current");
    else if (!link.hasAttribute("aria-current")) {
      link.setAttribute("aria-current", "page");
      bar.scrollLeft = link.getBoundingClientRect().left - bar.getBoundingClientRect().left + bar.scrollLeft - bar.clientWidth / 2 + link.offsetWidth / 2;
    }
  });
}
