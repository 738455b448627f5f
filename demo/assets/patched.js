// HTML that changes with every stroke: see match.js.
export default function ({ parentElement, data }) {
  match(parentElement.querySelector(".of-patched"), parsed(data.html));
}
