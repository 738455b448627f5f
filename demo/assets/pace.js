// Sends a component's newest value to Python, one at a time: a hand moves faster than an answer comes, and what is older than the
// answer on its way would only be waited for. While the hand moves, EVERY milliseconds at least lie between two values, on a server that is
// busy up to three times as much. `changed(true)`: the hand has come to an end, and its value goes at once.
// `answered(number)` is called with the number that Python saw last.
// While an answer is older than what is shown, the page says so: see `data-reading` in style.css.
const EVERY = 150;
function pacer(send) {
  let number = 0, waitingFor = null, dirty = false, ended = false, timer = 0, later = 0, sent = -Infinity, took = 0;
  const mark = () => document.documentElement.toggleAttribute("data-reading", dirty || waitingFor !== null);
  const flush = () => {
    dirty = false;
    waitingFor = ++number;
    sent = performance.now();
    clearTimeout(later);
    clearTimeout(timer);
    timer = setTimeout(() => { waitingFor = null; if (dirty) flush(); mark(); }, 1500);  // an answer that was lost does not silence us
    send(number);
  };
  const next = () => {
    clearTimeout(later);
    if (!dirty || waitingFor !== null) return;
    const early = ended ? 0 : sent + Math.max(EVERY, Math.min(2 * took, 3 * EVERY)) - performance.now();
    if (early > 0) later = setTimeout(next, early); else flush();
  };
  return {
    changed(now = false) { dirty = true; ended = now; next(); mark(); },
    answered(seen) {
      if (waitingFor !== null && seen === waitingFor) {
        clearTimeout(timer);
        took = performance.now() - sent;
        waitingFor = null;
        next();
        mark();
      }
    },
    startAfter(seen) { number = Math.max(number, seen || 0); },
  };
}
