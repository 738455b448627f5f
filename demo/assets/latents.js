export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".bank");
  if (!box.bank) box.bank = start(box);
  const bank = box.bank;
  bank.setStateValue = setStateValue;
  bank.pace.startAfter(data.answered);
  bank.words(data.words);
  if (bank.image !== data.image) bank.reset(data);
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
    input.parentElement.classList.toggle("moved", Math.abs(value - bank.encoded[index]) > 1.01 * input.step / 2);
  }
  bank.words = (words) => {
    holder.setAttribute("aria-label", words.group);
    for (const name of ["back", "average"]) box.querySelector(`[data-do=${name}]`).textContent = words[name];
    bank.inputs.forEach((input, index) => input.setAttribute("aria-label", words.slider.replace("{}", index + 1)));
    bank.said = words;
  };
  bank.reset = ({ image, encoded, values, average, order, reach }) => {
    bank.image = image;
    bank.encoded = encoded;
    bank.average = average;
    const made = encoded.map((_, index) => {
      const label = document.createElement("label"), name = document.createElement("span");
      const input = document.createElement("input"), output = document.createElement("output");
      name.textContent = `z${index + 1}`;
      Object.assign(input, { type: "range", min: -reach, max: reach, step: reach / 50, value: values[index] });
      input.addEventListener("input", () => { show(index); bank.pace.changed(); });
      input.addEventListener("dblclick", () => { input.value = bank.encoded[index]; show(index); bank.pace.changed(); });
      label.append(name, input, output);
      return [label, input];
    });
    bank.inputs = made.map(([, input]) => input);
    holder.replaceChildren(...order.map((index) => made[index][0]));
    bank.words(bank.said);
    bank.inputs.forEach((_, index) => show(index));
  };
  const all = (values) => {
    bank.inputs.forEach((input, index) => { input.value = values[index]; show(index); });
    bank.pace.changed();
  };
  box.querySelector("[data-do=back]").addEventListener("click", () => all(bank.encoded));
  box.querySelector("[data-do=average]").addEventListener("click", () => all(bank.average));
  return bank;
}
