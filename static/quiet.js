// A hidden page still has to say how the pipeline stands, in its title: one of all hidden pages asks the server, with a long poll, and tells
// the others. A browser has six connections to a server for all its windows, so that each page cannot have its own.
//
// Which one it is: a page that asks says so with a number that it drew, and of two the one with the smaller number goes on. A page that
// is seen has the smallest: it asks anyway. A page that has heard nothing for a while asks by itself.

const SILENCE_MS = 70000;     // longer than the one that asks is ever silent
const FOLLOW_UP_MS = 1000;    // within this time one takes over from a page that was closed
const SEEN = 0;               // the number of a page that is seen

// `take(message)` gets what another page heard, `kick()` is to begin or end asking. `say` tells the others, `mayAsk` whether this page is to ask.
export function makeQuiet({ take, kick }) {
  const number = 1 + Math.random();
  const mine = () => (document.hidden ? number : SEEN);
  const channel = new BroadcastChannel('autoappdev');
  let silentUntil = 0;        // by performance.now(): until then another page asks
  let isAsking = false;

  channel.onmessage = ({ data }) => {
    if (!document.hidden) {
      // A page that is hidden asks although this one does already.
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

  // How long this page is not to ask, in ms; 0: it asks now, and says so.
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
