// Copies a text, or the page's address with what it does not say itself.
export default function (component) {
  const { parentElement, data } = component;
  const button = parentElement.querySelector("button"), words = button.querySelector("span");
  words.textContent = data.words.share;
  button.onclick = async () => {
    const link = new URL(location.href);
    for (const [name, value] of Object.entries(data.carries)) value ? link.searchParams.set(name, value) : link.searchParams.delete(name);
    const text = data.text ?? link.href;
    button.dataset.copied = text;
    try { await navigator.clipboard.writeText(text); } catch { prompt("", text); return; }
    words.textContent = data.words.shared;
    setTimeout(() => { words.textContent = data.words.share; }, 2000);
  };
}
