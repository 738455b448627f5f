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
  const buttons = [...box.children];
  // One stop for the Tab key; arrows move inside (WAI-ARIA Authoring Practices, "roving tabindex").
  const reach = (index) => buttons.forEach((button, i) => { button.tabIndex = i === index ? 0 : -1; });
  buttons.forEach((button, index) => {
    button.setAttribute("aria-pressed", String(index === data.chosen));
    button.onclick = () => { reach(index); setStateValue("chosen", index); };
    button.onkeydown = (event) => {
      const across = Math.max(1, buttons.filter((each) => each.offsetTop === buttons[0].offsetTop).length);
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, Home: -index, End: buttons.length - 1 - index };
      if (!(event.key in steps)) return;
      const next = Math.min(buttons.length - 1, Math.max(0, index + steps[event.key]));
      reach(next);
      buttons[next].focus();
      event.preventDefault();
      event.stopPropagation();
    };
  });
  if (!buttons.includes(box.getRootNode().activeElement)) reach(data.chosen);
}
