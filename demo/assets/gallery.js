export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".gallery");
  box.setAttribute("aria-label", data.label);
  if (box.shown !== data.key) {
    box.shown = data.key;
    box.replaceChildren(...data.images.map(({ source, name }) => {
      const button = document.createElement("button"), image = document.createElement("img");
      button.type = "button";
      image.src = source;
      image.alt = name;
      button.append(image);
      return button;
    }));
  }
  [...box.children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(index === data.chosen));
    button.onclick = () => setStateValue("chosen", index);
  });
}
