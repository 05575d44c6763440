// Where the lines of the run that is shown come from: its last ones, or those around a line, and others when they are asked for; then the event
// stream. A place in the log is a number that any server on the same database goes on from, so nothing is missing or shown twice,
// whatever was restarted in between. The stream also brings state, progress and usage, so it goes on behind a run that has ended. Where
// none is to be had (64 are open, or something in between holds it back), lines are polled. Not by EventSource: it tells neither why it was
// refused nor that it has gone silent, takes in a flood faster than it can be shown, and can't name its server.

import { $, setText } from './dom.js';
import { append, attach, endNumber, prepend, rowAt, rowOfRecord } from './log-rows.js';
import { makeFinder } from './log-tools.js';
import { clearLog, firstInView, isFollowingEnd, reveal, showLine, takesNone, tellBack, tellFront } from './log.js';
import { proof, STATE_MS, toThisServer } from './session.js';
import { bytes, FIND } from './words.js';

// Lines to begin with, in front of one that is gone to, and in further pages.
const FIRST = 500;
const AROUND = 250;
const PAGE_LINES = 1000;
// What a line takes in the log beside its text.
const RECORD_BYTES = 29;
// Further behind than this many bytes it begins again with the last lines; the same within a stream, and how often that is checked.
const BEHIND_MAX = 1 << 20;
const LAG_MAX = 16 << 20;
const LOOK_LINES = 20000;
const RETRY_MS = 1000;
const REFUSED_MS = 5000;
// A stream begins with the state, and says something every 10 s.
const FIRST_WORD_MS = 5000;
const SILENCE_MS = 20000;
const POLL_MS = 1000;
const POLL_WAIT_S = 20;
// Until the next try of a stream, where one did not live this long.
const POLLING_MS = 60000;
const SHORT_MS = 2000;
// As long as this the page may be kept from drawing. In a flood a browser hands over megabytes at once: they are taken in pieces of this size.
const BUSY_MS = 12;
const PIECE_BYTES = 32768;

// `ask` is a request as app.js makes it, and `refresh` has the state asked for. `take` receives the state, `showSign` the data of a progress or
// usage event, and `hear` is called whenever the server says something. `adjust` changes the address, `restart` begins `follow` again.
export function makeFeed({ ask, refresh, adjust, isConnected, take, showSign, hear, restart }) {
  // The run whose lines are shown; null: none. The stream of which they are; empty: both.
  let run = null, stream = '';
  // Counts what is begun anew: answers for what was shown before are dropped.
  let turn = 0;
  // The id of the line to begin around; null: begin with the last lines. And the line that the address names.
  let goal = null, line = null;
  // The place behind the last line that came; null: nothing has come yet.
  let next = null;
  // Where the run's log ends; null: more may come. And the place in front of which older lines are asked for.
  let end = null, begin = null;
  // Whether lines are left out between the last one that came and the log's end, and whether lines wait until the reader is back there.
  let isAway = false, resting = false;
  // By performance.now().
  let pollUntil = 0;
  // The turn for which older or later lines are under way.
  let asking = -1;
  // Whether a stream brings the state, or is about to.
  let isSettling = false, streaming = false;
  // Whether another run is to be shown: the stream ends then, and another one brings the state at once.
  let isSwitching = false;

  const isComplete = () => end !== null && next >= end;
  // Whether lines are to be added behind the last one.
  const takesLines = () => next !== null && !isAway && !isComplete();
  const waits = () => takesLines() && takesNone();
  const poll = () => { pollUntil = performance.now() + POLLING_MS; };

  function page(path, params, signal) {
    const given = new URLSearchParams({ run, ...(stream && { stream }), ...params });
    return ask(`api/logs${path}?${given}`, signal, STATE_MS + (params.wait ?? 0) * 1000);
  }

  // One round: until the stream ends, or one page. Resolves to the pause before the next in ms.
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
      // Nothing is to come but the state, which is asked for elsewhere until there is a stream again.
      if (run === null || isAway || isComplete()) return Math.max(0, pollUntil - performance.now());
      const body = await more(signal, { wait: POLL_WAIT_S });
      if (body?.lines.length) refresh();
      return body ? POLL_MS : REFUSED_MS;
    } catch {
      // The state's loop finds out what is wrong, and begins this one again when the server answers.
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

  // A log-in that has ended and another server are for the state's loop to find.
  function refuse({ status, body }) {
    if (status === 401 || status === 421) refresh();
    else if (status !== 404) noteLog(FIND.unreadable(body.detail || status));
    return REFUSED_MS;
  }

  // Shows the last lines, or those around the goal. Resolves to the pause before another try, or to null.
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

  // Whether this page of lines reaches the present end of the log.
  const isLast = ({ lines, end: last, searched_all: all }) => !lines.length && all !== false || last !== null && next >= last;

  // Learns from the answer where older lines are to be asked for. Returns its lines.
  function takeFront({ lines, first, gone, searched_all: all }) {
    const start = lines.length ? startOf(lines[0]) : begin;
    if (all === false) begin = first;
    else if (gone && start - gone > first) {
      // A hole in the middle.
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
      // Another log, or too much to make up for: begin again.
      forget();
      return 0;
    }
    ({ end } = answer.body);
    // What is missing up to the end of a run that is over. Behind it the stream may have much of other runs.
    while (end !== null && !isComplete()) {
      const body = await more(signal);
      if (!body) return REFUSED_MS;
      // Lines of the other stream are at the end.
      if (!body.lines.length && body.searched_all !== false) next = Math.max(next, end);
    }
    return null;
  }

  // Adds the page behind the last line. Resolves to it, or to null.
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
    // A page and the stream may bring the same ones.
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
      // With too many streams, lines are polled.
      if (response.status !== 401 && response.status !== 421) poll();
    } catch (error) {
      // Polled as well where it has gone silent.
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
        // Something that lets no stream live is not to be asked for one four times a second.
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
        // Lines are in order: behind a later run's nothing comes of this one.
        else if (kind === 'log' && data.run_id > run) end ??= lines.at(-1)?.id ?? next;
        // A state can lead to another run, which another stream goes on with.
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
      // What has come already is read at once, so that in a flood nothing would be drawn.
      if (performance.now() - drawnAt > BUSY_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        drawnAt = performance.now();
      }
    }
  }

  // Runs `bring`, which brings older or later lines, unless it is under way.
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

  // Brings the lines in front of the first.
  const earlier = () => once(async () => {
    for (let lines = []; !lines.length && begin !== null;) {
      const mine = turn;
      const { ok, body } = await page('/tail', { before: begin, limit: PAGE_LINES });
      if (!ok || mine !== turn) return;
      lines = takeFront(body);
      prepend(lines);
    }
  });

  // Brings the lines behind the last, if they are not those at the end.
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

  // Sees to it that the line of this id is loaded, with those around it. Resolves to its row, or to null.
  async function goTo(id) {
    if (next !== null && id <= next && rowOfRecord(0)?.id <= id) return rowOfRecord(id);
    const mine = turn += 1;
    goal = id;
    try {
      if (next === null) restart();
      // The stream goes on meanwhile, and behind it where the lines are not those at the end.
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

  // Shows the lines of one stream or of both, from where the reader is.
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

  // After the run's end: what is missing up to there.
  async function settle() {
    if (isSettling || !isConnected()) return;
    isSettling = true;
    // Without an answer the next state tries again.
    if (await catchUp().catch(() => null) === 0) restart();
    isSettling = false;
  }

  attach({ later });
  return { show, follow, earlier, isStreaming: () => streaming, isResting: () => resting || isAway };
}

// Whether a key is meant for a field, a dialog or the browser.
export function isTyping({ target, ctrlKey, metaKey, altKey }) {
  return ctrlKey || metaKey || altKey || target.closest?.('input, select, textarea, dialog, [contenteditable]');
}

// Where a line begins in the log, or a place behind that: bytes that were no text may be shown as longer characters.
const startOf = ({ id, line }) => id - RECORD_BYTES - new TextEncoder().encode(line.replaceAll('\ufffd', ' ')).length;

// What is wrong with the log, above it.
function noteLog(text) {
  setText($('log-note'), text);
  $('log-note').hidden = !text;
}
