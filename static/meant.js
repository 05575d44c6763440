// Whether a click or a key was meant for a button of this page. A page of another origin can lie over this one, or lead here, in the
// middle of a double click or while the user presses keys that it asked for, so that the rest falls on a button here. The server
// cannot tell such a press from a meant one.

const APPEARED_MS = 1000;    // how long a page that was just loaded enables no button
const SHOWN_MS = 600;        // how long presses are ignored after the window got the focus or its tab was shown
const SAME_PRESS_MS = 50;    // the focus that a press on a button itself brings comes within this time

let loaded = performance.now();
let shown = -Infinity;
let focused = -Infinity;
let timer;

// True while the page is so new that its buttons are not enabled.
export const isNew = () => performance.now() - loaded < APPEARED_MS;

const isSettled = (at) => at - Math.max(shown, focused) >= SHOWN_MS;

function settle() {
  document.body.setAttribute('data-settling', '');
  clearTimeout(timer);
  timer = setTimeout(() => document.body.removeAttribute('data-settling'), SHOWN_MS);
}

// Calls `changed` once buttons can be enabled.
export function watchForFocus(changed) {
  const enable = () => setTimeout(changed, APPEARED_MS + 20);
  enable();
  // Also when the browser shows a page again that it has kept.
  addEventListener('pageshow', ({ persisted, timeStamp }) => {
    if (!persisted) return;
    loaded = timeStamp;
    changed();
    enable();
  });
  addEventListener('focus', ({ timeStamp }) => { focused = timeStamp; settle(); });
  document.addEventListener('visibilitychange', ({ timeStamp }) => {
    if (document.hidden) return;
    shown = timeStamp;
    settle();
  });
}

// Calls `then` for each click on a button that the user began while this page was before their eyes.
export function onMeantClick(button, then) {
  let isMeant = false;
  button.addEventListener('pointerdown', ({ timeStamp }) => {
    isMeant = isSettled(timeStamp) || (timeStamp - shown >= SHOWN_MS && timeStamp - focused < SAME_PRESS_MS);
  });
  button.addEventListener('click', ({ detail, timeStamp }) => {
    // A key, or a screen reader, makes a click without a press before it.
    if (detail === 0 ? isSettled(timeStamp) : isMeant) then();
    isMeant = false;
  });
}
