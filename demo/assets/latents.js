export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".bank");
  if (!box.bank) box.bank = start(box);
  const bank = box.bank;
  bank.setStateValue = setStateValue;
  bank.pace.startAfter(data.answered);
  if (bank.image !== data.image) bank.reset(data.image, data.encoded, data.values, data.reach);
  bank.pace.answered(data.answered);
}

function start(box) {
  const holder = box.querySelector(".sliders"), bank = { image: null, inputs: [], encoded: [] };
  bank.pace = pacer((number) => {
    bank.setStateValue("moved", { number, image: bank.image, values: bank.inputs.map((input) => Number(input.value)) });
  });
  function show(index) {
    const input = bank.inputs[index], value = Number(input.value);
    input.nextElementSibling.value = value.toFixed(2);
    input.parentElement.classList.toggle("moved", Math.abs(value - bank.encoded[index]) > .02);
  }
  bank.reset = (image, encoded, values, reach) => {
    bank.image = image;
    bank.encoded = encoded;
    bank.inputs = encoded.map((_, index) => {
      const label = document.createElement("label"), name = document.createElement("span");
      const input = document.createElement("input"), output = document.createElement("output");
      name.textContent = `z${index + 1}`;
      Object.assign(input, { type: "range", min: -reach, max: reach, step: .01, value: values[index] });
      input.setAttribute("aria-label", `latent number ${index + 1}`);
      input.addEventListener("input", () => { show(index); bank.pace.changed(); });
      input.addEventListener("dblclick", () => { input.value = bank.encoded[index]; show(index); bank.pace.changed(); });
      label.append(name, input, output);
      return [label, input];
    }).map(([label, input]) => { holder.append(label); return input; });
    while (holder.children.length > encoded.length) holder.firstElementChild.remove();
    bank.inputs.forEach((_, index) => show(index));
  };
  box.querySelector("[data-do=back]").addEventListener("click", () => {
    bank.inputs.forEach((input, index) => { input.value = bank.encoded[index]; show(index); });
    bank.pace.changed();
  });
  box.querySelector("[data-do=zero]").addEventListener("click", () => {
    bank.inputs.forEach((input, index) => { input.value = 0; show(index); });
    bank.pace.changed();
  });
  return bank;
}
