// Loads the lines of the run that is shown: its last lines or those around a given line, further lines on request, and then the event stream.
// A log position is a number that any server on the same database can continue from, so no line is missing or shown twice, whatever was restarted
// in between. The stream also brings state, progress and usage, so it continues after the shown run has ended. If no stream can be had (64 are
// open, or a proxy holds it back), lines are polled. EventSource is not used, because it does not report why the server refused it or that it has
// gone silent, it reads a flood faster than the page can draw, and it cannot name its server.

import { $, setText } from './dom.js';
import { append, attach, endNumber, prepend, rowAt, rowOfRecord } from './log-rows.js';
import { makeFinder } from './log-tools.js';
import { clearLog, firstInView, isFollowingEnd, reveal, showLine, takesNone, tellBack, tellFront } from './log.js';
import { proof, STATE_MS, toThisServer } from './session.js';
import { bytes, FIND } from './words.js';

// The number of lines to begin with, before a line that is jumped to, and in further pages.
const FIRST = 500;
const AROUND = 250;
const PAGE_LINES = 1000;
// The bytes that a record takes in the log in addition to its text.
const RECORD_BYTES = 29;
// How many bytes behind the page may be before it begins again with the last lines: when it catches up, and within a stream, where that is checked
// after this many lines.
const BEHIND_MAX = 1 << 20;
const LAG_MAX = 16 << 20;
const LOOK_LINES = 20000;
const RETRY_MS = 1000;
const REFUSED_MS = 5000;
// A stream begins with the state, and sends something every 10 s.
const FIRST_WORD_MS = 5000;
const SILENCE_MS = 20000;
const POLL_MS = 1000;
const POLL_WAIT_S = 20;
// A stream that ended sooner than SHORT_MS is replaced by polling, until the next try after this time.
const POLLING_MS = 60000;
const SHORT_MS = 2000;
// How long reading may keep the page from drawing. In a flood a browser delivers megabytes at once; they are processed in pieces of this size.
const BUSY_MS = 12;
const PIECE_BYTES = 32768;

// `ask` sends a request (see app.js), and `refresh` has the state requested. `take` receives the state, `showSign` the data of a progress or
// usage event, and `hear` is called whenever the server sends something. `adjust` changes the address, and `restart` restarts `follow`.
export function makeFeed({ ask, refresh, adjust, isConnected, take, showSign, hear, restart }) {
  // The run whose lines are shown, or null; and their output stream: empty for both.
  let run = null, stream = '';
  // Counts the fresh beginnings. Responses to requests from before the last one are dropped.
  let turn = 0;
  // The id of the line to begin around, or null to begin with the last lines; and the line that the address names.
  let goal = null, line = null;
  // The position after the last line received; null: none has been received yet.
  let next = null;
  // The position where the run's log ends; null: more may come. And the position before which older lines are requested.
  let end = null, begin = null;
  // Whether lines are left out between the last one received and the log's end; and whether lines wait until the reader returns to the end.
  let isAway = false, resting = false;
  // Lines are polled until this time, by performance.now().
  let pollUntil = 0;
  // The turn in which older or later lines are being requested.
  let asking = -1;
  // Whether the end of a finished run is being loaded; and whether a stream brings the state, or is about to.
  let isSettling = false, streaming = false;
  // Whether the page is switching to another run: the stream ends then, and the next one brings the state at once.
  let isSwitching = false;

  const isComplete = () => end !== null && next >= end;
  // Returns whether lines are to be added after the last one.
  const takesLines = () => next !== null && !isAway && !isComplete();
  const waits = () => takesLines() && takesNone();
  const poll = () => { pollUntil = performance.now() + POLLING_MS; };

  function page(path, params, signal) {
    const given = new URLSearchParams({ run, ...(stream && { stream }), ...params });
    return ask(`api/logs${path}?${given}`, signal, STATE_MS + (params.wait ?? 0) * 1000);
  }

  // Runs one round: until the stream ends, or one page. Resolves to the pause before the next round, in ms.
  async function follow(signal) {
    if (isAway && isFollowingEnd) {
      forget();
      if (line) adjust({ line: null });
      line = null;
    }
    resting = waits();
    if (!isConnected() || resting) return Infinity;
    streaming = performance.now() >= pollUntil;
    try {
      const pause = run === null || isAway ? null : await (next === null ? load : catchUp)(signal);
      if (pause !== null) return pause;
      if (streaming) return await openStream(signal);
      // No lines are expected. The state is requested elsewhere until there is a stream again.
      if (run === null || isAway || isComplete()) return Math.max(0, pollUntil - performance.now());
      const body = await more(signal, { wait: POLL_WAIT_S });
      if (body?.lines.length) refresh();
      return body ? POLL_MS : REFUSED_MS;
    } catch {
      // The state's loop finds the cause, and restarts this loop when the server answers.
      if (signal.aborted) return 0;
      refresh();
      return RETRY_MS;
    } finally {
      if (!isSwitching) {
        // A stream that this page ended itself is not a lost connection.
        if (streaming && isConnected() && !signal.aborted) refresh();
        streaming = false;
      }
      isSwitching = false;
    }
  }

  // Handles a refused request. The state's loop deals with an expired login and with another server.
  function refuse({ status, body }) {
    if (status === 401 || status === 421) refresh();
    else if (status !== 404) noteLog(FIND.unreadable(body.detail || status));
    return REFUSED_MS;
  }

  // Shows the last lines, or those around the goal. Resolves to the pause before another try, or to null on success.
  async function load(signal) {
    const mine = turn, to = goal;
    const answers = await Promise.all(to === null ? [page('/tail', { limit: FIRST }, signal)]
      : [page('/tail', { before: to, limit: AROUND }, signal), page('', { since: to, limit: FIRST }, signal)]);
    if (mine !== turn) return 0;
    const refused = answers.find(({ ok }) => !ok);
    if (refused) return refuse(refused);
    const [head, rest = head] = answers.map(({ body }) => body);
    forget();
    clearLog();
    $('log').dataset.read = '';
    noteLog(!head.lines.length && !rest.lines.length && rest.end !== null && head.gone ? FIND.logGone : '');
    append(takeFront(head));
    ({ end } = rest);
    ({ next } = rest.lines.length || rest.searched_all === false ? rest : head);
    if (rest !== head) {
      if (rest.gone) append([{ gone: rest.gone }]);
      append(rest.lines);
      isAway = !isLast(rest);
      if (line === to) showLine(to);
      else if (rowOfRecord(to)) reveal(rowOfRecord(to));
    }
    tellBack(isAway);
    return null;
  }

  // Returns whether this page of lines reaches the current end of the log.
  const isLast = ({ lines, end: last, searched_all: all }) => !lines.length && all !== false || last !== null && next >= last;

  // Takes the position for the next request for older lines from the response. Returns the lines of the response.
  function takeFront({ lines, first, gone, searched_all: all }) {
    const start = lines.length ? startOf(lines[0]) : begin;
    if (all === false) begin = first;
    else if (gone && start - gone > first) {
      // A gap in the middle of the log.
      begin = start - gone;
      return [{ gone }, ...lines];
    } else if (lines.length && start > first) begin = start;
    else {
      begin = null;
      tellFront(gone ? FIND.beginsBehind(bytes(gone)) : FIND.begins, false);
    }
    return lines;
  }

  async function catchUp(signal) {
    const mine = turn, answer = await ask(`api/logs/tail?run=${run}&limit=1`, signal, STATE_MS);
    if (mine !== turn) return 0;
    if (!answer.ok) return refuse(answer);
    noteLog('');
    const behind = answer.body.next - next;
    if (behind < 0 || behind > BEHIND_MAX && isFollowingEnd) {
      // The log is another one, or too many lines are missing: begin again.
      forget();
      return 0;
    }
    ({ end } = answer.body);
    // Loads what is missing up to the end of a finished run. After that position the stream may contain many lines of other runs.
    while (end !== null && !isComplete()) {
      const body = await more(signal);
      if (!body) return REFUSED_MS;
      // The rest of the log, up to its end, contains only lines of the other output stream.
      if (!body.lines.length && body.searched_all !== false) next = Math.max(next, end);
    }
    return null;
  }

  // Adds the page after the last line. Resolves to it, or to null.
  async function more(signal, params) {
    const mine = turn;
    const { ok, body } = await page('', { since: next, limit: PAGE_LINES, ...params }, signal);
    if (!ok || mine !== turn) return null;
    const { lines, gone } = body;
    add([...(gone ? [{ gone, id: next + 1 }] : []), ...lines]);
    next = Math.max(next, body.next);
    ({ end } = body);
    return body;
  }

  function add(lines) {
    // The page and the stream may bring the same lines.
    const fresh = lines.filter(({ id }) => id > next);
    next = fresh.at(-1)?.id ?? next;
    append(fresh.filter((it) => !stream || !it.stream || it.stream === stream));
  }

  async function openStream(outer) {
    const abort = new AbortController(), signal = AbortSignal.any([outer, abort.signal]), stop = () => abort.abort();
    let timer;
    const expect = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(stop, ms);
    };
    try {
      expect(FIRST_WORD_MS);
      const since = takesLines() ? `?since=${next}` : '';
      const response = await fetch(`api/events${since}`, { cache: 'no-store', headers: { ...toThisServer(), ...proof() }, signal });
      if (response.ok) return await read(response.body.getReader(), () => expect(SILENCE_MS), signal);
      // Refused because too many streams are open: lines are polled.
      if (response.status !== 401 && response.status !== 421) poll();
    } catch (error) {
      // Lines are also polled after a stream has gone silent.
      if (!abort.signal.aborted) throw error;
      poll();
    } finally {
      clearTimeout(timer);
      stop();
    }
    return 0;
  }

  async function read(reader, expectMore, signal) {
    const decoder = new TextDecoder(), openedAt = performance.now();
    let rest = '', count = 0, drawnAt = openedAt, left = [];
    for (;;) {
      const { done, value } = left.length ? { value: left } : await reader.read();
      if (done) {
        // If something ends every stream early, the page must not open four a second.
        if (performance.now() - openedAt < SHORT_MS) poll();
        return RETRY_MS / 4;
      }
      expectMore();
      hear();
      const events = (rest + decoder.decode(value.subarray(0, PIECE_BYTES), { stream: true })).split('\n\n'), lines = [];
      rest = events.pop();
      left = value.subarray(PIECE_BYTES);
      for (const event of events) {
        const [, kind, json] = /event: (\w+)\ndata: (.*)/s.exec(event) ?? [], data = json && JSON.parse(json);
        if (kind === 'state') take(data);
        else if (kind === 'progress' || kind === 'usage') showSign(kind, data);
        else if (!takesLines()) continue;
        else if (kind === 'gap') lines.push({ gone: data.to - data.from, id: data.to });
        else if (kind === 'log' && data.run_id === run) lines.push(data);
        // Lines are in order: after a line of a later run, no line of this one follows.
        else if (kind === 'log' && data.run_id > run) end ??= lines.at(-1)?.id ?? next;
        // A state can switch the page to another run, which has its own stream.
        if (signal.aborted) return 0;
      }
      if (lines.length) add(lines);
      if (waits()) return 0;
      count += lines.length;
      if (count >= LOOK_LINES) {
        count = 0;
        const { ok, body } = await ask('api/logs/tail?source=pipeline&limit=1', signal, STATE_MS);
        if (ok && body.next - next > LAG_MAX && isFollowingEnd && !isComplete()) {
          forget();
          return 0;
        }
      }
      // Data that has already arrived is read without a pause, so in a flood the page could not draw.
      if (performance.now() - drawnAt > BUSY_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        drawnAt = performance.now();
      }
    }
  }

  // Runs `bring`, which loads older or later lines, unless that is already under way.
  async function once(bring) {
    if (asking === turn) return;
    const mine = asking = turn;
    try {
      await bring();
    } catch {
      refresh();
    } finally {
      if (asking === mine) asking = -1;
    }
  }

  // Loads the lines before the first one.
  const earlier = () => once(async () => {
    for (let lines = []; !lines.length && begin !== null;) {
      const mine = turn;
      const { ok, body } = await page('/tail', { before: begin, limit: PAGE_LINES });
      if (!ok || mine !== turn) return;
      lines = takeFront(body);
      prepend(lines);
    }
  });

  // Loads the lines after the last one, if those at the end are not loaded.
  const later = () => once(async () => {
    const body = isAway && await more();
    if (!body || !isLast(body)) return;
    isAway = false;
    tellBack(false);
    if (end === null) restart();
  });

  function forget() {
    turn += 1;
    next = end = begin = goal = null;
    isAway = false;
  }

  // Loads the line of this id and those around it, unless it is loaded. Resolves to its row, or to null.
  async function goTo(id) {
    if (next !== null && id <= next && rowOfRecord(0)?.id <= id) return rowOfRecord(id);
    const mine = turn += 1;
    goal = id;
    try {
      if (next === null) restart();
      // The stream continues meanwhile. It is restarted if the loaded lines reach the end of the log.
      else if (await load() === null) {
        if (!isAway && end === null) restart();
        return rowOfRecord(id);
      }
    } catch {
      refresh();
    }
    if (turn === mine && next !== null) goal = null;
    return null;
  }

  // Shows the lines of one output stream or of both, beginning at the reader's position.
  function choose(value) {
    const first = firstInView();
    const place = !isFollowingEnd && first < endNumber && rowAt(first).id || null;
    forget();
    [stream, goal] = [value, place];
    restart();
  }

  const find = makeFinder({ ask, goTo, choose, adjust, where: () => ({ run, stream, upTo: isAway ? next : Infinity }) });

  // Shows the run of this context, at the line that the address names.
  function show(c) {
    const isNew = c.id !== run, to = c.route.line;
    if (isNew) {
      forget();
      run = c.id;
      line = goal = to;
      clearLog();
      delete $('log').dataset.read;
      noteLog('');
      isSwitching = streaming;
      restart();
    } else if (to !== line) {
      line = to;
      if (to) goTo(to).then((row) => row && showLine(to));
    } else if (!isAway && next !== null && end === null && !(c.isLatest && (c.pipeline.state !== 'stopped' || c.pipeline.pending))) {
      settle();
    }
    find(c.route.find, isNew);
  }

  // Loads the missing lines up to the end of a run that has ended.
  async function settle() {
    if (isSettling || !isConnected()) return;
    isSettling = true;
    // If there is no answer, the next state tries again.
    if (await catchUp().catch(() => null) === 0) restart();
    isSettling = false;
  }

  attach({ later });
  return { show, follow, earlier, isStreaming: () => streaming, isResting: () => resting || isAway };
}

// Returns whether a key is meant for a field, a dialog or the browser.
export function isTyping({ target, ctrlKey, metaKey, altKey }) {
  return ctrlKey || metaKey || altKey || target.closest?.('input, select, textarea, dialog, [contenteditable]');
}

// Returns where a line begins in the log, or a later position, because bytes that are not text may be shown as longer characters.
const startOf = ({ id, line }) => id - RECORD_BYTES - new TextEncoder().encode(line.replaceAll('\ufffd', ' ')).length;

// Shows a problem of the log above it.
function noteLog(text) {
  setText($('log-note'), text);
  $('log-note').hidden = !text;
}
