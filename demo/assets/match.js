// Changes what is shown into what is wanted: elements that stay the same are kept, and only what differs is changed.
function parsed(html) {
  const made = document.createElement("template");
  made.innerHTML = html;
  return made.content;
}

function match(place, made) {
  const there = [...place.childNodes], wanted = [...made.childNodes];
  wanted.forEach((want, at) => {
    const have = there[at];
    if (!have) place.append(want);
    else if (have.nodeName !== want.nodeName) have.replaceWith(want);
    else if (want.nodeType !== Node.ELEMENT_NODE) { if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue; }
    else {
      for (const { name } of [...have.attributes]) if (!want.hasAttribute(name)) have.removeAttribute(name);
      for (const { name, value } of want.attributes) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
      match(have, want);
    }
  });
  there.slice(wanted.length).forEach((each) => each.remove());
}
