// A text whose letters carry a colour. One is chosen by mouse or touch, or by the arrow keys and Enter.
export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".letters");
  box.setAttribute("aria-label", data.label);
  if (box.shown !== data.key) {
    box.shown = data.key;
    box.at = data.chosen;
    box.replaceChildren(...data.letters.map((letter, index) => {
      const span = document.createElement("span");
      span.textContent = letter === "\n" ? "↵\n" : letter;
      if (letter === "\n") span.className = "end";
      if (data.heat[index] !== null) span.style.setProperty("--heat", data.heat[index]);
      return span;
    }));
    const rest = document.createElement("i");
    rest.textContent = data.rest;
    box.append(rest);
  }
  const spans = box.querySelectorAll("span");
  const mark = (index) => {
    spans.forEach((span, i) => span.classList.toggle("chosen", i === index));
    box.at = index;
  };
  mark(data.chosen);
  const choose = (index) => { mark(index); setStateValue("chosen", index); };
  box.onclick = (event) => {
    const index = [...spans].indexOf(event.target);
    if (index >= 0) choose(index);
  };
  box.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10 }[event.key];
    if (step) mark(Math.min(spans.length - 1, Math.max(0, (box.at < 0 ? 0 : box.at) + step)));
    else if (event.key === "Enter" && box.at >= 0) choose(box.at);
    else return;
    spans[box.at]?.scrollIntoView({ block: "nearest" });
    event.preventDefault();
    event.stopPropagation();
  };
}
