// Where the page's lines come from: the last ones, then the event stream behind them, and older ones when they are asked for. The place in
// the log is a number that any server on the same database goes on from, so that nothing is missing or shown twice, whatever was
// restarted in between. The stream also brings the pipeline's state and progress. Where there is no stream to be had (64 are open, or
// something between here and the server holds it back), lines are polled.
//
// Not by EventSource: it tells neither why it was refused nor that the line has gone silent, takes in a flood faster than it can be shown,
// and cannot name the server that it is meant for.

import * as view from './log.js';
import { proof } from './login.js';
import { toThisServer } from './server.js';
import { bytes } from './words.js';

const FIRST = 500;            // lines to begin with
const BEHIND_MAX = 1 << 20;   // further behind than this many bytes it begins again with the last lines
const LAG_MAX = 16 << 20;     // the same within a stream
const LOOK_LINES = 20000;     // after so many lines it is looked how far behind it is
const EARLIER_BYTES = 140000; // how far it goes back at once
const PAGE_LINES = 1000;
const ANSWER_MS = 5000;
const RETRY_MS = 1000;
const REFUSED_MS = 5000;
const FIRST_WORD_MS = 5000;   // a stream begins with the state
const SILENCE_MS = 20000;     // and says something every 10 s
const POLL_MS = 1000;
const POLL_WAIT_S = 20;
const POLLING_MS = 60000;     // until the next try of a stream
const SHORT_MS = 2000;        // of a stream
const BUSY_MS = 12;           // as long as this the page may be kept from drawing

// `ask` is a request as app.js makes it, and `refresh` has the state asked for. `take` receives the state, `showProgress` the data of a
// progress event, and `hear` is called whenever the server says something.
export function makeFeed({ ask, refresh, isConnected, take, showSign, hear, restart }) {
  let run = null;       // the run whose lines are shown; null: none
  let next = null;      // the cursor for the next lines; null: begin with the last ones
  let begin = null;     // the first line's id
  let pollUntil = 0;    // by performance.now()
  let resting = false;  // whether lines wait until the reader is back at the end
  let asking = false;   // whether older lines are under way
  let streaming = false; // whether a stream brings the state, or is about to

  // One round: until the stream ends, or one page. Resolves to the pause before the next in ms.
  async function follow(signal) {
    resting = view.takesNone();
    if (!isConnected() || resting) return Infinity;
    streaming = performance.now() >= pollUntil;
    try {
      if (run === null) return streaming ? await stream(signal) : Infinity;
      const { ok, status, body } = await ask(`api/logs/tail?source=pipeline&run=${run}&limit=${next === null ? FIRST : 1}`, signal, ANSWER_MS);
      if (!ok) {
        // A log-in that has ended and another server are for the state's loop to find.
        if (status === 401 || status === 421) refresh();
        else tell(`The log can’t be read now (${body.detail || status}); trying again.`);
        return REFUSED_MS;
      }
      tell('');
      // From here on an empty log is one that says nothing.
      document.getElementById('log').dataset.read = '';
      const behind = body.next - (next ?? body.next);
      if (next === null) {
        view.clear();
        begin = body.lines[0]?.id ?? null;
        next = body.next;
        view.append(body.lines);
        if (begin === null) atFirst(body.first);
        else if (body.lines.length < FIRST) await lookForFirst(signal);
      } else if (behind < 0 || behind > BEHIND_MAX && view.isFollowing()) {
        // Another log, or too much to make up for: begin again.
        next = null;
        return 0;
      }
      return streaming ? await stream(signal) : await poll(signal);
    } catch {
      // The state's loop finds out what is wrong, and begins this one again when the server answers.
      if (signal.aborted) return 0;
      refresh();
      return RETRY_MS;
    } finally {
      if (streaming) {
        streaming = false;
        if (isConnected()) refresh();
      }
    }
  }

  function add(lines) {
    next = lines.reduce((last, line) => Math.max(last, line.id ?? line.to), next);
    begin ??= lines.find((line) => line.id)?.id ?? null;
    view.append(lines);
  }

  async function poll(signal) {
    const { ok, body } = await ask(`api/logs?source=pipeline&since=${next}&limit=1000&wait=${POLL_WAIT_S}`, signal, ANSWER_MS + POLL_WAIT_S * 1000);
    if (!ok) return REFUSED_MS;
    if (body.gone) add([{ gone: body.gone, to: next }]);
    add(body.lines);
    next = Math.max(next, body.next);
    if (body.lines.length) refresh();
    return POLL_MS;
  }

  async function stream(signal) {
    const abort = new AbortController();
    const stop = () => abort.abort();
    let timer, isSilent = false;
    const expect = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => { isSilent = true; stop(); }, ms);
    };
    signal.addEventListener('abort', stop);
    if (signal.aborted) stop();
    try {
      expect(FIRST_WORD_MS);
      const response = await fetch(`api/events${next === null ? '' : `?since=${next}`}`, { cache: 'no-store', headers: { ...toThisServer(), ...proof() }, signal: abort.signal });
      if (!response.ok) {
        // With too many streams, lines are polled.
        if (response.status !== 401 && response.status !== 421) pollUntil = performance.now() + POLLING_MS;
        return 0;
      }
      return await read(response.body.getReader(), () => expect(SILENCE_MS));
    } catch (error) {
      if (!isSilent) throw error;
      pollUntil = performance.now() + POLLING_MS;
      return 0;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', stop);
      stop();
    }
  }

  async function read(reader, expectMore) {
    const decoder = new TextDecoder();
    const openedAt = performance.now();
    let rest = '', count = 0, drawnAt = openedAt;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        // Something that lets no stream live is not to be asked for one four times a second.
        if (performance.now() - openedAt < SHORT_MS) pollUntil = performance.now() + POLLING_MS;
        return RETRY_MS / 4;
      }
      expectMore();
      hear();
      const events = (rest + decoder.decode(value, { stream: true })).split('\n\n');
      rest = events.pop();
      const lines = [];
      for (const event of events) {
        const [, kind] = /^event: (.*)$/m.exec(event) ?? [];
        if (!['state', 'progress', 'usage', 'log', 'gap'].includes(kind)) continue;
        const data = JSON.parse(event.slice(event.indexOf('data: ') + 6));
        if (kind === 'state') take(data);
        else if (kind === 'progress' || kind === 'usage') showSign(kind, data);
        else if (kind === 'log' && data.run_id !== run) continue;
        else lines.push(kind === 'log' ? data : { gone: data.to - data.from, to: data.to });
      }
      if (lines.length) add(lines);
      if (view.takesNone()) return 0;
      count += lines.length;
      if (count >= LOOK_LINES) {
        count = 0;
        const { ok, body } = await ask('api/logs/tail?source=pipeline&limit=1', null, ANSWER_MS);
        if (ok && body.next - next > LAG_MAX && view.isFollowing()) {
          next = null;
          return 0;
        }
      }
      // What has come already is read at once, so that in a flood nothing would be drawn.
      if (performance.now() - drawnAt > BUSY_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        drawnAt = performance.now();
      }
    }
  }

  // Brings the lines in front of the first.
  async function earlier() {
    if (asking || begin === null) return;
    asking = true;
    try {
      const before = begin, lines = [];
      let isFirst = false, first = 0;
      // In a hole there is nothing, so the steps grow.
      for (let span = EARLIER_BYTES; !lines.length && !isFirst; span *= 2) {
        const from = Math.max(0, before - span);
        for (let since = from; ;) {
          const { ok, body } = await ask(`api/logs?source=pipeline&run=${run}&since=${since}&limit=${PAGE_LINES}`, null, ANSWER_MS);
          if (!ok || begin !== before) return;
          first = body.first;
          const older = body.lines.filter((line) => line.id < before);
          // How much is missing is known only where it was asked from in front of it.
          if (body.gone && body.next > first && (since > from || since > first)) lines.push({ gone: since > from ? body.gone : 0 });
          lines.push(...older);
          if (body.next <= since || body.next >= before || older.length < body.lines.length) break;
          since = body.next;
        }
        isFirst = from <= first;
      }
      begin = lines.find((line) => line.id)?.id ?? before;
      view.prepend(lines);
      if (isFirst) atFirst(first);
    } catch {
      refresh();
    } finally {
      asking = false;
    }
  }

  // Fewer lines than asked for may be all, or what one answer holds, or what lies behind a hole.
  async function lookForFirst(signal) {
    const { ok, body } = await ask(`api/logs?source=pipeline&run=${run}&since=0&limit=1`, signal, ANSWER_MS);
    if (ok && body.lines[0]?.id === begin) atFirst(body.first);
  }

  function atFirst(first) {
    view.tellFront(first ? `The log begins here; ${bytes(first)} before are not kept any more.` : 'The log begins here.', false);
  }

  function show({ id }) {
    if (id === run) return;
    run = id;
    next = begin = null;
    view.clear();
    restart();
  }

  return { show, follow, earlier, isStreaming: () => streaming, isResting: () => resting };
}

// What is wrong with the log, above it.
function tell(text) {
  const note = document.getElementById('log-note');
  if (note.textContent !== text) note.textContent = text;
  note.hidden = !text;
}
