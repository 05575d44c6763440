// The title of a hidden page must still show the state of the pipeline: one of all hidden pages requests it with a long poll, and passes it on to
// the others. A browser allows six connections to a server for all its windows, so not every page can have its own.
//
// How they choose: a page that polls announces that with its random number, and of two the one with the smaller number goes on. A page that
// is visible has the smallest, because it follows the state anyway. A page that has heard nothing for a while starts to poll.

const SILENCE_MS = 70000;     // longer than the polling page is ever silent
const FOLLOW_UP_MS = 1000;    // within this time another page takes over from a closed one
const SEEN = 0;               // the number of a visible page

// `take(message)` receives another page's state, and `kick()` makes this page begin or end polling. `say` sends to the others; `pause` returns how long not to poll.
export function makeQuiet({ take, kick }) {
  const number = 1 + Math.random();
  const mine = () => (document.hidden ? number : SEEN);
  const channel = new BroadcastChannel('autoappdev');
  let silentUntil = 0;        // by performance.now(): until then another page asks
  let isAsking = false;

  channel.onmessage = ({ data }) => {
    if (!document.hidden) {
      // A hidden page polls although this visible one already does.
      if (data.number !== SEEN && !data.isOver) say({});
      return;
    }
    if (data.isOver) {
      silentUntil = performance.now() + Math.random() * FOLLOW_UP_MS;
      kick();
    } else if (isAsking && data.number > number) {
      say({});
    } else {
      silentUntil = performance.now() + SILENCE_MS;
      if (isAsking) kick();
      isAsking = false;
      if (data.pipeline) take(data);
    }
  };
  addEventListener('pagehide', () => {
    if (!document.hidden || isAsking) say({ isOver: true });
    isAsking = false;
  });

  function say(what) {
    channel.postMessage({ ...what, number: mine() });
  }

  // How long this page must not poll, in ms; 0: it polls now, and announces that.
  function pause() {
    if (!document.hidden) {
      isAsking = false;
      return 0;
    }
    const left = silentUntil - performance.now();
    if (left > 0) return left;
    if (!isAsking) say({});
    isAsking = true;
    return 0;
  }

  return { say, pause };
}
