// Seconds since the game began, counted here so that nothing has to be sent.
export default function (component) {
  const { parentElement, data } = component;
  const output = parentElement.querySelector("output");
  output.setAttribute("aria-label", data.label);
  clearInterval(output.timer);
  const begun = performance.now() - 1000 * data.seconds;
  const show = () => {
    if (!output.isConnected) { clearInterval(output.timer); return; }
    output.textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
  };
  output.timer = setInterval(show, 100);
  show();
}
