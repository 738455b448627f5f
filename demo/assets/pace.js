// Sends a component's newest value to Python, one at a time: a hand moves faster than an answer comes, and what is older than the
// answer on its way would only be waited for. `answered(number)` is called with the number that Python saw last.
// While an answer is older than what is shown, the page says so: see `data-reading` in style.css.
function pacer(send) {
  let number = 0, waitingFor = null, dirty = false, timer = 0;
  const mark = () => document.documentElement.toggleAttribute("data-reading", dirty || waitingFor !== null);
  const flush = () => {
    dirty = false;
    waitingFor = ++number;
    clearTimeout(timer);
    timer = setTimeout(() => { waitingFor = null; if (dirty) flush(); mark(); }, 1500);  // an answer that was lost does not silence us
    send(number);
  };
  return {
    changed() { dirty = true; if (waitingFor === null) flush(); mark(); },
    answered(seen) {
      if (waitingFor !== null && seen === waitingFor) {
        clearTimeout(timer);
        waitingFor = null;
        if (dirty) flush();
        mark();
      }
    },
    startAfter(seen) { number = Math.max(number, seen || 0); },
  };
}
