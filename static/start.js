// The form of a start. Loaded, with the page of the first visit, when one of them is first needed.
//
// The form holds no rule about what can be started: the server checks each value, and its words are shown at the field that they are about.
// Values of an earlier run are sent back exactly as they were kept unless the user changes them, because a field for one line drops the ends
// of lines. Text from outside is put in by textContent only.

import { onMeantClick } from './controls.js';
import { button, code, copyLine, el, get, icon, iconButton } from './copy.js';
import { clearNotice, set } from './head.js';
import { ANSWERED, BROKE, HINTS, NO_HINT, START as S, T, command, localTime, row as rowOf, sentence, visible } from './words.js';

export { copy } from './copy.js';
export { showFirst } from './first.js';

const FIND_MS = 250;        // after the last key, if the server has to search
const RECENT = 200;         // the runs that tell when a script was last run, and how that ended
const AGAIN_MS = 700;       // a second press within this time is the rest of a double click
const ROWS_MAX = 8;         // of the arguments
const CHIPS_MAX = 500;
const SECRET = /KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL/i;

let c = null;               // the context that the form was opened with: its requests and its action
let dialog = null;
let part = null;            // the elements
let pipeline = null;        // the latest state
let opening = 0;            // counts the times it was opened: an answer for an earlier one is dropped
let root = '';
let all = null;             // the answer that lists the scripts: null while there is none
let found = null;           // the answer for the text, if the list of all is not complete
let recent = new Map();     // the latest runs, by id
let chosen = '';
let latest = null;          // what the latest run was started with, if the form is for a new one
let filled = {};            // the arguments that were filled in, and the text that they became
let isTouched = false;      // whether the user has changed a field since
let rows = [];              // the variables
let isSending = false;
let sent = -Infinity;
let typing;
let seen = '';

// ---- Commands ---------------------------------------------------------------------------------------------------------------

// Splits a line into words as a POSIX shell does (Shell Command Language, 2.2 Quoting), without expansions and operators. Returns the words,
// and a sentence if the line is not complete.
export function split(line) {
  const words = [];
  let word = null;
  const add = (text) => { word = (word ?? '') + text; };
  for (let n = 0; n < line.length; n++) {
    const c = line[n];
    if (' \t\n'.includes(c)) {
      if (word !== null) words.push(word);
      word = null;
    } else if (c === '\\') {
      n++;
      if (n === line.length) return { words, problem: S.loneBackslash };
      // A backslash before the end of a line joins the two lines.
      if (line[n] !== '\n') add(line[n]);
    } else if (c === "'") {
      const end = line.indexOf(c, n + 1);
      if (end < 0) return { words, problem: S.unclosed(c) };
      add(line.slice(n + 1, end));
      n = end;
    } else if (c === '"') {
      add('');
      for (n++; line[n] !== '"'; n++) {
        if (n >= line.length) return { words, problem: S.unclosed(c) };
        const isEscaped = line[n] === '\\' && '$`"\\\n'.includes(line[n + 1] ?? ' ');
        if (isEscaped) n++;
        if (!isEscaped || line[n] !== '\n') add(line[n]);
      }
    } else add(c);
  }
  if (word !== null) words.push(word);
  return { words, problem: '' };
}

// The command that starts this. A secret is not in it: the command takes that from its own environment.
function cli({ script, args, cwd, env, grace_s: grace }) {
  const option = (name, value) => (value.startsWith('-') ? [`${name}=${value}`] : [name, value]);
  return command('autoappdev', ['start', script.startsWith('-') ? `./${script}` : script, ...(cwd ? option('--cwd', cwd) : []),
    ...Object.entries(env).flatMap(([name, value]) => option('--env', SECRET.test(name) ? name : `${name}=${value}`)),
    ...(grace == null ? [] : ['--grace', `${grace}`]), ...(args.length ? ['--', ...args] : [])]);
}

// ---- The form: made once -----------------------------------------------------------------------------------------------------

const PLAIN = { className: 'f mono', dir: 'ltr', autocomplete: 'off', autocapitalize: 'none', spellcheck: false };
const field = (props, tag = 'input') => el(tag, { ...PLAIN, ...props });
const labelled = (words, input, ...under) => el('div', {}, el('label', {}, words, input), ...under);

function make() {
  part = {
    title: el('h2', { id: 'form-title', tabIndex: -1 }), from: el('span', { className: 'from' }), close: iconButton('close', T.close),
    find: field({ type: 'search', className: 'f', dir: '' }), list: el('div', { className: 'list', role: 'radiogroup', 'aria-label': S.scripts }),
    note: el('p', { role: 'status' }), retry: button('b sm', S.tryAgain), use: button('b sm use', ''), fields: el('fieldset'),
    args: field({ rows: 1, 'aria-describedby': 'args-hint' }, 'textarea'), hint: el('p', { id: 'args-hint' }),
    chips: el('ol', { dir: 'ltr', 'aria-label': S.argList }), env: el('div', { className: 'envs', dir: 'ltr', role: 'group', 'aria-label': S.env }),
    cwd: field(), grace: field({ className: 'f', dir: '', inputMode: 'decimal', placeholder: S.graceHint }), command: el('code', { dir: 'ltr' }),
    why: el('p', { id: 'why-not' }), wrong: el('p', { id: 'wrong', role: 'alert' }), cancel: button('b quiet', T.cancel),
    go: button('b prime', '', icon('play'), el('span')), foot: el('footer'),
  };
  part.go.setAttribute('aria-describedby', 'why-not');
  part.fields.append(labelled(S.args, part.args, part.hint, part.chips), el('div', {}, el('label', { 'aria-hidden': 'true' }, S.env), part.env),
    el('div', { className: 'cols' }, labelled(S.cwd, part.cwd), labelled(S.grace, part.grace)));
  part.foot.append(part.wrong, part.why, copyLine(part.command, () => part.command.dataset.text), part.cancel, part.go);
  // Browsers want a password in a form. Nothing submits it.
  const form = el('form', { onsubmit: (event) => event.preventDefault() }, part.fields);
  const pick = el('div', { className: 'pick' }, el('div', {}, icon('find'), part.find), part.list, part.note, part.retry, part.use);
  dialog.append(el('header', {}, part.title, part.from, part.close), el('div', { className: 'two' }, pick, form), part.foot);

  onMeantClick(part.go, start);
  for (const end of [part.close, part.cancel]) end.addEventListener('click', () => dialog.close());
  part.find.addEventListener('input', search);
  part.find.addEventListener('keydown', (event) => {
    const text = part.find.value.trim(), radio = part.list.querySelector(':checked') ?? part.list.querySelector('input');
    if (event.key === 'Enter' && text && !event.isComposing) choose(matching()[0]?.path ?? text, true);
    else if (event.key === 'ArrowDown' && radio) radio.focus();
    else return;
    event.preventDefault();
  });
  part.list.addEventListener('change', ({ target }) => choose(target.value));
  part.use.addEventListener('click', () => choose(part.find.value.trim(), true));
  part.retry.addEventListener('click', () => list(opening));
  part.args.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    part.go.click();
  });
  part.fields.addEventListener('input', () => {
    isTouched = true;
    const { name, value } = rows.at(-1);
    if (name.value || value.value) addVariable();
    tell();
    showCommand();
  });
  // Whether a start is possible is asked again with each state that the page shows.
  new MutationObserver(() => {
    const { state, tone } = document.body.dataset;
    if (dialog.open && seen !== (seen = state + tone)) learnState();
  }).observe(document.body, { attributeFilter: ['data-state', 'data-tone'] });
}

// Opens the form: for a new run as the latest one was started, for the script `given.script`, or for a run to edit, `given.run`.
export function openForm(element, context, given) {
  [dialog, c] = [element, context];
  if (dialog.open) return;
  if (!part) make();
  const mine = ++opening;
  ({ pipeline } = c);
  [all, found, latest, recent, isSending] = [null, null, null, new Map(), false];
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
  list(mine);
  if (from !== null) learnChoices(mine, from, !given.run);
}

// ---- The scripts -------------------------------------------------------------------------------------------------------------

async function list(mine) {
  all = null;
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
  const mine = opening, text = part.find.value.trim();
  if (!all?.truncated || !text) found = null;
  else {
    typing = setTimeout(async () => {
      const answer = await get(c.ask, `api/pipeline/scripts?find=${encodeURIComponent(text)}`);
      if (mine !== opening || text !== part.find.value.trim()) return;
      found = answer;
      drawScripts();
    }, FIND_MS);
  }
  tell();
  drawScripts();
}

function matching() {
  const text = part.find.value.trim().toLowerCase();
  return (found ?? all)?.scripts?.filter(({ path }) => path.toLowerCase().includes(text)) ?? [];
}

function drawScripts() {
  const text = part.find.value.trim(), answer = found ?? all, shown = matching();
  const isFocused = part.list.contains(document.activeElement);
  // A script that is not in the list has a row of its own.
  const isListed = [...(all?.scripts ?? []), ...shown].some(({ path }) => path === chosen);
  const drawn = [...(answer && chosen && !isListed ? [{ path: chosen }] : []), ...shown];
  part.list.replaceChildren(...drawn.map(drawScript));
  if (isFocused) (part.list.querySelector(':checked') ?? part.find).focus();
  part.find.placeholder = visible(S.findScripts(root));
  part.find.setAttribute('aria-label', part.find.placeholder);
  const none = text ? S.noMatch : `${S.noScripts(root)}. ${S.whatIsOne}`;
  const words = answer?.scripts && (answer.truncated ? S.cut(shown.length) : shown.length ? '' : none);
  set(part.note, !answer ? S.reading : words ?? `${S.noList} ${answer.problem}`);
  part.retry.hidden = !answer?.problem;
  part.use.hidden = !text || !answer || drawn.some(({ path }) => path === text);
  set(part.use, S.use(text));
}

function drawScript({ path, runs, usual_ms: usual, last_run_id: last }) {
  const run = recent.get(last), at = run && Date.parse(run.created_at);
  const end = run && rowOf(run);
  const isBad = /failed|killed|unstarted|lost/.test(end?.tone);
  return el('label', {}, el('input', { type: 'radio', name: 'script', className: 'vh', value: path, checked: path === chosen }),
    el('span', { className: 'card' }, code(path), run ? el('time', { dateTime: run.created_at, title: localTime(at, c.now) }, S.day(at, c.now)) : '',
      el('small', {}, runs === undefined ? S.notListed(all.problem) : S.ran(runs, usual) + (isBad ? S.lastTime(end.word) : ''))));
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
async function learnChoices(mine, id, isNew) {
  const before = chosen;
  part.fields.disabled = true;
  const { start: choices, problem } = await get(c.ask, `api/runs/${id}/start`);
  if (mine !== opening) return;
  part.fields.disabled = false;
  if (problem) tell(`${S.noChoices(id)} ${problem}`);
  else {
    if (isNew) latest = { ...choices, id };
    // Another script may have been chosen meanwhile.
    if (chosen === before) chosen = choices.script;
    if (chosen === choices.script || !isNew) fill({ ...choices, id });
  }
  drawScripts();
  showState();
}

function fill({ args = [], cwd, env = {}, grace_s: grace, id }) {
  set(part.from, id ? S.from(id) : '');
  part.args.value = command(args[0] ?? '', args.slice(1)).replace(args.length ? '' : "''", '');
  filled = { text: part.args.value, args };
  part.cwd.value = cwd && cwd !== root ? cwd : '';
  part.grace.value = grace ?? '';
  rows = [];
  part.env.replaceChildren();
  for (const [name, value] of Object.entries(env)) addVariable(name, value);
  addVariable();
  isTouched = false;
  showCommand();
}

// Adds a row of the environment; the last one is for the next variable. A value that is null was not kept.
function addVariable(name = '', kept = '') {
  const row = { kept, name: field({ value: name, placeholder: S.envName, 'aria-label': S.envName }), value: field({ value: kept ?? '' }),
    show: button('show', S.show), remove: iconButton('close', '') };
  row.element = el('div', {}, row.name, row.value, row.show, row.remove);
  row.name.addEventListener('input', () => showVariable(row));
  row.value.addEventListener('input', () => {
    row.kept = undefined;
    showVariable(row);
  });
  row.value.addEventListener('paste', (event) => {
    if (!/[\r\n]/.test(event.clipboardData.getData('text').trim())) return;
    event.preventDefault();
    tell(S.oneLine, row.value);
  });
  row.show.addEventListener('click', () => {
    row.isShown = !row.isShown;
    showVariable(row);
  });
  row.remove.addEventListener('click', () => {
    const n = rows.indexOf(row);
    tell();
    rows.splice(n, 1);
    row.element.remove();
    rows[n].name.focus();
    isTouched = true;
    showCommand();
  });
  rows.push(row);
  part.env.append(row.element);
  showVariable(row);
}

// What depends on a variable's name, and on whether its value was kept.
function showVariable(row) {
  const name = visible(row.name.value), isSecret = SECRET.test(name);
  row.value.type = isSecret && !row.isShown ? 'password' : 'text';
  // The browser must not put in a password that it keeps for this address.
  row.value.autocomplete = isSecret ? 'new-password' : 'off';
  row.value.placeholder = row.kept === null ? S.notKept : S.envValue;
  row.value.setAttribute('aria-label', S.valueOf(name));
  row.show.hidden = !isSecret || row.kept === null;
  row.value.classList.toggle('hides', !row.show.hidden);
  row.show.textContent = row.isShown ? S.hide : S.show;
  row.remove.title = S.remove(name);
  row.remove.setAttribute('aria-label', row.remove.title);
}

// ---- What the fields say -----------------------------------------------------------------------------------------------------

const given = () => (part.args.value === filled.text ? { words: filled.args } : split(part.args.value));

// Says what is wrong, at the field `at` or else at the end; or takes that away.
function tell(text = '', at = null) {
  dialog.querySelector('[aria-invalid]')?.removeAttribute('aria-invalid');
  if (at) at.closest('div').append(part.wrong);
  else part.foot.prepend(part.wrong);
  set(part.wrong, text);
  at?.setAttribute('aria-invalid', 'true');
  at?.focus();
  if (text) part.wrong.scrollIntoView({ block: 'nearest' });
}

// The start that the fields describe, as far as they do.
function choices() {
  const variables = rows.filter(({ name }) => name.value).map(({ name, value, kept }) => [name.value, kept ?? value.value]);
  const grace = part.grace.value.trim().replace(',', '.');
  const env = Object.fromEntries(variables);
  return { script: chosen, args: given().words, cwd: part.cwd.value || null, env, grace_s: grace ? Number(grace) : null };
}

// Whether nothing is missing. Else it says what is.
function isWhole() {
  const names = new Set();
  const wrong = (...what) => { tell(...what); return false; };
  if (!chosen) return wrong(S.chooseOne, part.find);
  if (given().problem) return wrong(given().problem, part.args);
  for (const { name, value, kept } of rows) {
    if (!name.value && value.value) return wrong(S.noName, name);
    if (!name.value) continue;
    if (kept === null) return wrong(S.notGiven(name.value), value);
    if (names.has(name.value)) return wrong(S.twice(name.value), name);
    names.add(name.value);
  }
  return !Number.isNaN(choices().grace_s) || wrong(S.noNumber, part.grace);
}

function showCommand() {
  const { words, problem } = given();
  part.args.rows = 1;
  while (part.args.scrollHeight > part.args.clientHeight && part.args.rows < ROWS_MAX) part.args.rows++;
  set(part.hint, problem || (words.length ? '' : S.argsHint));
  part.chips.hidden = !words.length;
  part.chips.replaceChildren(...words.slice(0, CHIPS_MAX).map((word) => el('li', {}, visible(word) || "''")));
  const start = choices(), text = cli({ ...start, script: chosen || 'SCRIPT' });
  part.command.dataset.text = text;
  set(part.command, text);
  part.command.title = visible(text) + (Object.keys(start.env).some((name) => SECRET.test(name)) ? `\n${S.secretsHint}` : '');
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
  set(part.go.lastElementChild, isSending ? S.starting : chosen ? S.startThe(chosen) : S.start);
  showCommand();
}

async function start() {
  const mine = opening, now = performance.now();
  if (isSending || now - sent < AGAIN_MS) return;
  tell();
  if (!isWhole()) return;
  [sent, isSending] = [now, true];
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
  const { error = 'lost', detail = answer ? ANSWERED(answer.status) : BROKE, missing = [] } = answer?.body ?? {};
  const row = rows.find(({ name }) => name.value && (missing.includes(name.value) || detail.includes(name.value)));
  const at = { script: part.find, args: part.args, cwd: part.cwd, env: (row ?? rows[0]).name, grace_s: part.grace };
  const place = missing.length ? row?.value : at[/^\w*/.exec(detail)[0]] ?? (/_script|script_/.test(error) ? part.find : null);
  const text = sentence(detail.replace(/^(args|env|cwd|grace_s)\b/, (key) => S[key]));
  tell(place ? text : `${text} ${HINTS[error] ?? NO_HINT}`, place);
}
