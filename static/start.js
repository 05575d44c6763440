// The form of a start, and the page of the first visit. Loaded when one of them is first needed.
//
// The form holds no rule about what can be started: the server checks each value, and its words are shown at the field that they are about.
// A variable's value of an earlier run is sent back exactly as it was kept unless the user changes it, because a field for one line drops the
// ends of lines.

import { clearNotice, set } from './head.js';
import { SECRET, acting, button, cli, code, copyLine, curl, el, get, icon, iconButton, looks } from './parts.js';
import { ANSWERED, BROKE, HINTS, NO_HINT, START as S, T, bytes, command, localTime, row as rowOf, sentence, visible } from './words.js';

await looks();

// After the last key, if the server has to search.
const FIND_MS = 250;
// The runs that tell when a script was last run, and how that ended.
const RECENT = 200;
const ROWS_MAX = 8;
const CHIPS_MAX = 500;

// The scripts of the first visit. The form lists all.
const SHOWN_MAX = 30;
// They are listed again with a state that comes later than this.
const FRESH_MS = 10000;

// The context that the form was opened with or the first visit was shown with last, and the latest state that the form knows.
let c, pipeline;
let dialog, part, typing, seen;
// Counts the times it was opened: an answer for an earlier one is dropped.
let opening = 0;
let root = '';
// The answer that lists the scripts, and the one for the text of the search, if the former is not complete.
let all, found;
let recent = new Map();
let chosen = '';
// What the latest run was started with, if the form is for a new one.
let latest;
let isTouched, isSending;
// The rows of the environment; the last one is for the next variable.
let rows = [];
// The first visit: its section, the scripts or why there are none, what was drawn, and when the scripts were read.
let section, offered, isTokenNeeded, drawnFor;
let readAt = -Infinity;
let isStarting = false;

// Splits a line into words as a POSIX shell does (Shell Command Language, 2.2 Quoting), without expansions and operators. Returns the words,
// and a sentence if the line is not complete.
export function split(line) {
  const words = [];
  let word;
  const pieces = /([ \t\n]+)|\\\n|'([^']*)'|"((?:[^"\\]|\\[^])*)"|\\([^])|([^ \t\n'"\\]+)|([^])/g;
  for (const [, blank, single, double, escaped, plain, broken] of line.matchAll(pieces)) {
    if (broken) return { words, problem: broken === '\\' ? S.loneBackslash : S.unclosed(broken) };
    const text = single ?? double?.replace(/\\(?:\n|([$\x60"\\]))/g, '$1') ?? escaped ?? plain;
    if (text !== undefined) word = (word ?? '') + text;
    else if (blank && word !== undefined) {
      words.push(word);
      word = undefined;
    }
  }
  return { words: word === undefined ? words : [...words, word], problem: '' };
}

// ---- The form: made once -----------------------------------------------------------------------------------------------------

const field = (props, tag = 'input') =>
  el(tag, { className: 'f mono', dir: 'ltr', autocomplete: 'off', autocapitalize: 'none', spellcheck: false, ...props });
const labelled = (words, input, ...under) => el('div', '', el('label', '', words, input), ...under);
const text = () => part.find.value.trim();

function make() {
  const close = () => dialog.close();
  part = {
    title: el('h2', { id: 'form-title', tabIndex: -1 }), from: el('span', 'from'),
    find: field({ type: 'search', className: 'f', dir: '' }), list: el('div', { className: 'list', role: 'radiogroup', 'aria-label': S.scripts }),
    note: el('p', { role: 'status' }), retry: button('b sm', S.tryAgain, () => list()), use: button('b sm use', '', () => choose(text(), true)),
    args: field({ rows: 1, 'aria-describedby': 'args-hint' }, 'textarea'), hint: el('p', { id: 'args-hint' }),
    chips: el('ol', { dir: 'ltr', 'aria-label': S.argList }), env: el('div', { className: 'envs', dir: 'ltr', role: 'group', 'aria-label': S.env }),
    cwd: field(), grace: field({ className: 'f', dir: '', inputMode: 'decimal', placeholder: S.graceHint }), command: el('code', { dir: 'ltr' }),
    why: el('p', { id: 'why-not' }), wrong: el('p', { id: 'wrong', role: 'alert' }), go: acting('b prime', '', start, 'play'),
  };
  part.go.setAttribute('aria-describedby', 'why-not');
  part.fields = el('fieldset', '', labelled(S.args, part.args, part.hint, part.chips), labelled(S.env, '', part.env),
    el('div', 'cols', labelled(S.cwd, part.cwd), labelled(S.grace, part.grace)));
  part.foot = el('footer', '', part.wrong, part.why, copyLine(part.command, () => cli(choices())), button('b quiet', T.cancel, close), part.go);
  // Browsers want a password in a form. Nothing submits it.
  dialog.append(el('header', '', part.title, part.from, iconButton('close', T.close, close)), el('div', 'two',
    el('div', 'pick', el('div', '', icon('find'), part.find), part.list, part.note, part.retry, part.use),
    el('form', { onsubmit: (event) => event.preventDefault() }, part.fields)), part.foot);

  part.find.oninput = search;
  part.find.onkeydown = (event) => {
    if (event.key !== 'Enter' || !text() || event.isComposing) return;
    event.preventDefault();
    choose(matching()[0]?.path ?? text(), true);
  };
  part.list.onchange = ({ target }) => choose(target.value);
  part.args.onkeydown = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    part.go.click();
  };
  part.fields.oninput = ({ target }) => {
    isTouched = true;
    const row = rows.find(({ value }) => value === target);
    if (row) row.kept = undefined;
    if (rows.at(-1).name.value || rows.at(-1).value.value) addVariable();
    tell();
    showCommand();
  };
  // Whether a start is possible is asked again with each state that the page shows.
  new MutationObserver(() => {
    const { state, tone } = document.body.dataset;
    if (dialog.open && seen !== (seen = state + tone)) learnState();
  }).observe(document.body, { attributeFilter: ['data-state', 'data-tone'] });
}

// Opens the form: for a new run as the latest one was started, for the script `given.script`, or for a run to edit, `given.run`.
export function openForm(element, context, given) {
  if (element.open) return;
  [dialog, c] = [element, context];
  if (!part) make();
  opening++;
  ({ pipeline } = c);
  latest = null;
  isSending = false;
  const from = given.run ?? (given.script ? null : pipeline.run_id);
  set(part.title, given.run ? S.edit : S.newRun);
  part.find.value = '';
  chosen = given.script ?? (given.run ? '' : pipeline.script ?? pipeline.default_script ?? '');
  fill({});
  tell();
  dialog.showModal();
  // On a touch screen the keyboard would cover the form.
  (matchMedia('(pointer: coarse)').matches ? part.title : part.find).focus();
  showState();
  list();
  if (from !== null) learnChoices(from, !given.run);
}

// ---- The scripts -------------------------------------------------------------------------------------------------------------

async function list() {
  const mine = opening;
  all = found = null;
  drawScripts();
  const [scripts, runs] = await Promise.all([get(c.ask, 'api/pipeline/scripts'), get(c.ask, `api/runs?limit=${RECENT}`)]);
  if (mine !== opening) return;
  all = scripts;
  root = scripts.root ?? root;
  recent = new Map(runs.runs?.map((run) => [run.id, run]));
  part.cwd.placeholder = visible(root);
  if (part.cwd.value === root) part.cwd.value = '';
  drawScripts();
  showCommand();
  part.list.querySelector(':checked')?.parentNode.scrollIntoView({ block: 'nearest' });
}

function search() {
  clearTimeout(typing);
  const mine = opening, sought = text();
  if (!all?.truncated || !sought) found = null;
  else {
    typing = setTimeout(async () => {
      const answer = await get(c.ask, `api/pipeline/scripts?find=${encodeURIComponent(sought)}`);
      if (mine !== opening || sought !== text()) return;
      found = answer;
      drawScripts();
    }, FIND_MS);
  }
  tell();
  drawScripts();
}

const matching = () => (found ?? all)?.scripts?.filter(({ path }) => path.toLowerCase().includes(text().toLowerCase())) ?? [];

function drawScripts() {
  const answer = found ?? all, shown = matching();
  // A script that is not in the list has a row of its own.
  const isListed = [...(all?.scripts ?? []), ...shown].some(({ path }) => path === chosen);
  const drawn = answer && chosen && !isListed ? [{ path: chosen }, ...shown] : shown;
  part.list.replaceChildren(...drawn.map(drawScript));
  part.find.placeholder = visible(S.findScripts(root));
  part.find.setAttribute('aria-label', part.find.placeholder);
  set(part.note, !answer ? S.reading : answer.problem ? `${S.noList} ${answer.problem}` : answer.truncated ? S.cut(shown.length)
    : shown.length ? '' : text() ? S.noMatch : `${S.noScripts(root)}. ${S.whatIsOne}`);
  part.retry.hidden = !answer?.problem;
  part.use.hidden = !text() || !answer || drawn.some(({ path }) => path === text());
  set(part.use, S.use(text()));
}

function drawScript({ path, runs, usual_ms: usual, last_run_id: last }) {
  const run = recent.get(last), at = run && Date.parse(run.created_at), end = run && rowOf(run);
  const isBad = /failed|killed|unstarted|lost/.test(end?.tone);
  return el('label', '', el('input', { type: 'radio', name: 'script', className: 'vh', value: path, checked: path === chosen }),
    el('span', 'card', code(path), run && el('time', { dateTime: run.created_at, title: localTime(at, c.now) }, S.day(at, c.now)),
      el('small', '', runs === undefined ? S.notListed(all.problem) : S.ran(runs, usual) + (isBad ? S.lastTime(end.word) : ''))));
}

// Chooses a script. `isFound` is that the search has ended with it.
function choose(path, isFound) {
  chosen = path;
  tell();
  // The arguments of one script mean nothing to another.
  if (!isTouched && latest) fill(path === latest.script ? latest : {});
  if (isFound) {
    part.find.value = '';
    found = null;
    drawScripts();
    part.list.querySelector(':checked')?.focus();
  }
  showState();
}

// ---- The fields --------------------------------------------------------------------------------------------------------------

// Fills in what run `id` was started with.
async function learnChoices(id, isNew) {
  const mine = opening, before = chosen;
  part.fields.disabled = true;
  const { start: kept, problem } = await get(c.ask, `api/runs/${id}/start`);
  if (mine !== opening) return;
  part.fields.disabled = false;
  if (problem) tell(`${S.noChoices(id)} ${problem}`);
  else {
    if (isNew) latest = { ...kept, id };
    // Another script may have been chosen meanwhile.
    if (chosen === before) chosen = kept.script;
    if (chosen === kept.script || !isNew) fill({ ...kept, id });
  }
  drawScripts();
  showState();
}

function fill({ args = [], cwd, env = {}, grace_s: grace, id }) {
  set(part.from, id ? S.from(id) : '');
  part.args.value = args.length ? command(args[0], args.slice(1)) : '';
  part.cwd.value = cwd && cwd !== root ? cwd : '';
  part.grace.value = grace ?? '';
  rows = [];
  part.env.replaceChildren();
  for (const [name, value] of Object.entries(env)) addVariable(name, value);
  addVariable();
  isTouched = false;
  showCommand();
}

// Adds a row of the environment. A value that is null was not kept.
function addVariable(name = '', kept = '') {
  const row = { kept, name: field({ value: name, placeholder: S.envName, 'aria-label': S.envName }), value: field({ value: kept ?? '' }),
    show: button('show', '', () => {
      row.isShown = !row.isShown;
      showCommand();
    }),
    remove: iconButton('close', '', () => {
      const n = rows.indexOf(row);
      tell();
      rows.splice(n, 1);
      element.remove();
      rows[n].name.focus();
      isTouched = true;
      showCommand();
    }) };
  const element = el('div', '', row.name, row.value, row.show, row.remove);
  row.value.onpaste = (event) => {
    if (!/[\r\n]/.test(event.clipboardData.getData('text').trim())) return;
    event.preventDefault();
    tell(S.oneLine, row.value);
  };
  rows.push(row);
  part.env.append(element);
}

// What depends on a variable's name, and on whether its value was kept.
function showVariable({ name: { value: name }, value, kept, isShown, show, remove }) {
  const isSecret = SECRET.test(name);
  value.type = isSecret && !isShown ? 'password' : 'text';
  // The browser must not put in a password that it keeps for this address.
  value.autocomplete = isSecret ? 'new-password' : 'off';
  value.placeholder = kept === null ? S.notKept : S.envValue;
  value.setAttribute('aria-label', visible(S.valueOf(name)));
  show.hidden = !isSecret || kept === null;
  value.classList.toggle('hides', !show.hidden);
  set(show, isShown ? S.hide : S.show);
  remove.title = visible(S.remove(name));
  remove.setAttribute('aria-label', remove.title);
}

// ---- What the fields say -----------------------------------------------------------------------------------------------------

// Says what is wrong, at the field `at` or else at the end; or takes that away.
function tell(words = '', at = null) {
  dialog.querySelector('[aria-invalid]')?.removeAttribute('aria-invalid');
  if (at) at.closest('div').append(part.wrong);
  else part.foot.prepend(part.wrong);
  set(part.wrong, words);
  at?.setAttribute('aria-invalid', 'true');
  at?.focus();
  if (words) part.wrong.scrollIntoView({ block: 'nearest' });
}

// The start that the fields describe, as far as they do.
function choices() {
  const grace = part.grace.value.trim().replace(',', '.');
  const env = rows.filter(({ name }) => name.value).map(({ name, value, kept }) => [name.value, kept ?? value.value]);
  return { script: chosen || 'SCRIPT', args: split(part.args.value).words, cwd: part.cwd.value || null, env: Object.fromEntries(env),
    grace_s: grace ? Number(grace) : null };
}

// What is missing: a sentence, and the field that it is about.
function missing() {
  const { problem } = split(part.args.value);
  if (!chosen) return [S.chooseOne, part.find];
  if (problem) return [problem, part.args];
  for (const [n, { name, value, kept }] of rows.entries()) {
    if (!name.value && value.value) return [S.noName, name];
    if (name.value && kept === null) return [S.notGiven(name.value), value];
    if (name.value && rows.findIndex((row) => row.name.value === name.value) < n) return [S.twice(name.value), name];
  }
  return Number.isNaN(choices().grace_s) ? [S.noNumber, part.grace] : null;
}

function showCommand() {
  const { words, problem } = split(part.args.value);
  part.args.rows = 1;
  while (part.args.scrollHeight > part.args.clientHeight && part.args.rows < ROWS_MAX) part.args.rows++;
  set(part.hint, problem || (words.length ? '' : S.argsHint));
  part.chips.hidden = !words.length;
  part.chips.replaceChildren(...words.slice(0, CHIPS_MAX).map((word) => el('li', '', word || "''")));
  rows.forEach(showVariable);
  set(part.command, cli(choices()));
  part.command.title = part.command.textContent;
}

// ---- Starting ----------------------------------------------------------------------------------------------------------------

async function learnState() {
  const mine = opening, answer = await get(c.ask, 'api/pipeline');
  if (mine !== opening) return;
  pipeline = answer.pipeline ?? pipeline;
  showState();
}

// The button, and why it can't be pressed.
function showState() {
  const { run_id: id, state, pending, allowed } = pipeline;
  const busy = state === 'stopped' ? S.noStart : S.busy(id, pending === 'stop' ? 'stopping' : state);
  const why = document.body.dataset.state === 'unknown' ? T.noConnection : allowed.includes('start') ? '' : busy;
  set(part.why, isSending ? '' : why);
  part.go.disabled = !!why && !isSending;
  set(part.go.lastChild, isSending ? S.starting : chosen ? S.startThe(chosen) : S.start);
  showCommand();
}

async function start() {
  if (isSending) return;
  const mine = opening, wrong = missing();
  tell(...(wrong ?? []));
  if (wrong) return;
  isSending = true;
  showState();
  const answer = await c.act('start', choices());
  if (answer?.ok) location.hash = '#/';
  // It may have been closed, and opened again, meanwhile. The page's own notice then tells of a refusal.
  if (mine !== opening) return;
  isSending = false;
  if (answer?.ok) dialog.close();
  else if (dialog.open) {
    clearNotice();
    showRefusal(answer);
    learnState();
  }
}

// Shows the server's refusal at the field that it is about. Its sentence begins with the name of that.
function showRefusal(answer) {
  const { error = 'lost', detail = answer ? ANSWERED(answer.status) : BROKE, missing: names = [] } = answer?.body ?? {};
  const row = rows.find(({ name }) => name.value && (names.includes(name.value) || detail.includes(name.value)));
  const at = { script: part.find, args: part.args, cwd: part.cwd, env: (row ?? rows[0]).name, grace_s: part.grace };
  const place = names.length ? row?.value : at[/^\w*/.exec(detail)[0]] ?? (/_script|script_/.test(error) ? part.find : null);
  const words = sentence(detail.replace(/^(args|env|cwd|grace_s)\b/, (key) => S[key]));
  tell(place ? words : `${words} ${HINTS[error] ?? NO_HINT}`, place);
}

// ---- The first visit, while there was no run at all: the scripts that can be started, and the commands that do the same from elsewhere ----------

// Shows the scripts. Called with each state.
export function showFirst(element, context) {
  [section, c] = [element, context];
  if (c.mayAct && performance.now() - readAt > FRESH_MS) readScripts();
  drawFirst();
}

async function readScripts() {
  readAt = performance.now();
  const [scripts, login] = await Promise.all([get(c.ask, 'api/pipeline/scripts'), isTokenNeeded ?? get(c.ask, 'api/session')]);
  isTokenNeeded = login.session?.token_needed ?? isTokenNeeded;
  // What is shown stays if it can't be read again.
  if (!scripts.problem || !offered?.scripts) offered = scripts;
  drawFirst();
}

function drawFirst() {
  const key = JSON.stringify([c.mayAct, c.mayOnlyLook, offered, isTokenNeeded, c.pipeline.default_script, new Date(c.now).getDate()]);
  if (drawnFor !== key) {
    drawnFor = key;
    const focused = section.contains(document.activeElement) && document.activeElement.dataset.path;
    section.replaceChildren(el('div', 'in', content()));
    starters().find(({ dataset }) => dataset.path === focused)?.focus();
  }
  for (const starter of starters()) starter.disabled = !c.connected || !c.pipeline.allowed.includes('start') || isStarting;
}

const starters = () => [...section.querySelectorAll('[data-path]')];
const heading = (words, ...text) => el('div', 'hd', el('h2', '', words), el('p', '', ...text));

function content() {
  if (c.mayOnlyLook) return heading(S.noRuns, S.youLook);
  if (!c.mayAct || !offered) return heading(S.choose, S.reading);
  const { root, scripts = [], problem, truncated } = offered;
  const retry = button('b', S.tryAgain, readScripts);
  if (problem) return [heading(S.choose, `${S.noList} ${problem}`), el('div', '', retry)];
  if (!scripts.length) {
    return [heading(S.noScripts(root), S.whatIsOne), el('div', '', el('p', '', S.example),
      copyLine(el('pre', { dir: 'ltr', textContent: S.script.trimEnd() }), () => S.script, ''), el('p', '', S.saveIt(`${root}/hello.sh`)), retry)];
  }
  const byDefault = c.pipeline.default_script;
  const sorted = [...scripts].sort((a, b) => (b.path === byDefault) - (a.path === byDefault));
  const script = sorted[0].path, left = sorted.length - SHOWN_MAX;
  const opener = (words) => button('link', words, () => c.startForm({ script }));
  const token = isTokenNeeded ? ['-H', 'Authorization: Bearer TOKEN'] : [];
  const [before, after] = S.theseAreIn.split('{}');
  return [heading(S.choose, before, code(root), after), el('div', '', el('ul', '', sorted.slice(0, SHOWN_MAX).map(scriptRow)), opener(S.withArgs),
    left > 0 && opener(S.more(left, truncated)), el('h3', '', S.elsewhere),
    [cli({ script }), curl({ script }, ...token)].map((text) => copyLine(code(text), () => text)))];
}

function scriptRow({ path, size, modified_at: time }, n) {
  const at = Date.parse(time);
  // The page has one filled button: the top bar's, if there is a script for it.
  const starter = acting(n || c.pipeline.default_script ? 'b sm' : 'b sm prime', S.start, async () => {
    isStarting = true;
    drawFirst();
    await c.act('start', { script: path });
    isStarting = false;
    drawFirst();
  });
  starter.dataset.path = path;
  starter.setAttribute('aria-label', visible(`${S.start} ${path}`));
  return el('li', '', icon('file'), code(path), el('span', { dir: 'ltr' }, bytes(size)),
    el('time', { dateTime: time, title: localTime(at, c.now) }, S.day(at, c.now)), starter);
}
