// The start form, and the page of the first visit.
//
// The form contains no rule about what can be started: the server checks each value, and its error is shown at the field that it concerns. The value
// of a variable of an earlier run is sent back exactly as it was kept unless the user changes it, because a one-line field drops line ends.

import { el, icon, set } from './dom.js';
import { clearNotice } from './head.js';
import { acting, button, cli, code, copyLine, curl, get, iconButton, isEnter, SECRET, timeOf } from './parts.js';
import { FIND_MS } from './rail.js';
import { grace } from './session.js';
import { ANSWERED, BROKE, bytes, HINTS, NO_HINT, row, sentence, shellWords, START, T, visible } from './words.js';

// How many runs are searched for a script's last run and its outcome.
const RECENT = 200;
const ROWS_MAX = 8;
const CHIPS_MAX = 500;

// How many scripts the first visit shows. The form lists all.
const SHOWN_MAX = 30;
// If a state comes later than this, the scripts are listed again.
const FRESH_MS = 10000;

// The context in which the form was opened or the first visit was last shown, and the latest state that the form knows.
let formContext, formState;
let dialog, parts, typing, seen;
// Counts how often the form was opened. Responses for an earlier opening are dropped.
let opening = 0;
let root = '';
// The response that lists the scripts, and the one for the search text if the list is incomplete.
let allScripts, foundScripts;
let recent = new Map();
let chosenScript = '';
// The start of the latest run, if the form is for a new one.
let latestStart;
let isEdited, isSending;
// The rows of the environment. The last one is for the next variable.
let rows = [];
// The first visit: its section, the scripts or the reason why there are none, whether clients need a token, what was drawn, and when the scripts
// were listed.
let firstBox, offered, isTokenNeeded, drawnFor;
let readAt = -Infinity;
let isStarting = false;

// Splits a line into words as a POSIX shell does (Shell Command Language, 2.2 Quoting), without expansions and operators. Returns the words,
// and a sentence if the line is incomplete.
function splitLine(line) {
  const words = [];
  // Whether the next piece continues the last word.
  let goesOn = false;
  const pieces = /([ \t\n]+)|\\\n|'([^']*)'|"((?:[^"\\]|\\[^])*)"|\\([^])|([^ \t\n'"\\]+)|([^])/g;
  for (const [, blank, single, double, escaped, plain, broken] of line.matchAll(pieces)) {
    if (broken) return { words, problem: broken === '\\' ? START.loneBackslash : START.unclosed(broken) };
    const text = single ?? double?.replace(/\\(?:\n|([$\x60"\\]))/g, '$1') ?? escaped ?? plain;
    if (text !== undefined) words.push((goesOn ? words.pop() : '') + text);
    goesOn = text !== undefined || goesOn && !blank;
  }
  return { words, problem: '' };
}

// ---- The form: made once -----------------------------------------------------------------------------------------------------

const learn = (path) => get(formContext.ask, `api/${path}`);
const formField = (props, tag = 'input') =>
  el(tag, { className: 'f mono', dir: 'ltr', autocomplete: 'off', autocapitalize: 'none', spellcheck: false, ...props });
const labelled = (words, input, ...under) => el('div', '', el('label', '', words, input), ...under);
const soughtText = () => parts.find.value.trim();

function makeForm() {
  const close = () => dialog.close();
  parts = {
    title: el('h2', { id: 'form-title', tabIndex: -1 }), from: el('span', 'from'),
    find: formField({ type: 'search', className: 'f', dir: '', oninput: searchScripts }),
    list: el('div', { className: 'list', role: 'radiogroup', ariaLabel: START.scripts, onchange: ({ target }) => chooseScript(target.value) }),
    note: el('p', { role: 'status' }), retry: button('b sm', START.tryAgain, listScripts),
    use: button('b sm use', '', () => chooseScript(soughtText(), true)),
    args: formField({ rows: 1, 'aria-describedby': 'args-hint' }, 'textarea'), hint: el('p', { id: 'args-hint' }),
    chips: el('ol', { dir: 'ltr', ariaLabel: START.argList }), env: el('div', { className: 'envs', dir: 'ltr', role: 'group', ariaLabel: START.env }),
    cwd: formField(), grace: formField({ className: 'f', dir: '', inputMode: 'decimal' }), command: code(''),
    why: el('p', { id: 'why-not' }), wrong: el('p', { id: 'wrong', role: 'alert' }), go: acting('b prime', '', startIt, 'play'),
  };
  parts.go.setAttribute('aria-describedby', 'why-not');
  parts.fields = el('fieldset', '', labelled(START.args, parts.args, parts.hint, parts.chips), labelled(START.env, '', parts.env),
    el('div', 'cols', labelled(START.cwd, parts.cwd), labelled(START.grace, parts.grace)));
  parts.foot = el('footer', '', parts.wrong, parts.why, copyLine(parts.command, () => cli(choices())), button('b quiet', T.cancel, close), parts.go);
  // Browsers expect a password field in a form. Nothing submits this form.
  dialog.append(el('header', '', parts.title, parts.from, iconButton('close', T.close, close)), el('div', 'two',
    el('div', 'pick', el('div', '', icon('find'), parts.find), parts.list, parts.note, parts.retry, parts.use),
    el('form', { onsubmit: (event) => event.preventDefault() }, parts.fields)), parts.foot);

  parts.find.onkeydown = (event) => {
    if (isEnter(event) && soughtText()) chooseScript(matching()[0]?.path ?? soughtText(), true);
  };
  parts.args.onkeydown = (event) => {
    if (!isEnter(event) || event.shiftKey) return;
    event.preventDefault();
    parts.go.click();
  };
  parts.fields.oninput = ({ target }) => {
    isEdited = true;
    const row = rows.find(({ value }) => value === target);
    if (row) row.kept = undefined;
    if (rows.at(-1).name.value || rows.at(-1).value.value) addVariable();
    tellProblem();
    showCommand();
  };
  // Each new state on the page makes the form request whether a start is possible.
  new MutationObserver(() => {
    const { state, tone } = document.body.dataset;
    if (dialog.open && seen !== (seen = state + tone)) learnState();
  }).observe(document.body, { attributeFilter: ['data-state', 'data-tone'] });
}

// Opens the form for a new run with the start of the latest one, for the script `given.script`, or for the run to edit, `given.run`.
export function openForm(element, context, given) {
  if (element.open) return;
  [dialog, formContext] = [element, context];
  if (!parts) makeForm();
  opening++;
  formState = formContext.pipeline;
  latestStart = null;
  isSending = false;
  const from = given.run ?? (given.script ? null : formState.run_id);
  set(parts.title, given.run ? START.edit : START.newRun);
  parts.find.value = '';
  chosenScript = given.script ?? (given.run ? '' : formState.script ?? formState.default_script ?? '');
  fillForm({});
  tellProblem();
  dialog.showModal();
  (isTouch() ? parts.title : parts.find).focus();
  showState();
  listScripts();
  if (from !== null) learnChoices(from, !given.run, given.isMissing);
}

// ---- The scripts -------------------------------------------------------------------------------------------------------------

async function listScripts() {
  const mine = opening;
  allScripts = foundScripts = null;
  drawScripts();
  const [scripts, runs] = await Promise.all([learn('pipeline/scripts'), learn(`runs?limit=${RECENT}`)]);
  if (mine !== opening) return;
  allScripts = scripts;
  root = scripts.root ?? root;
  recent = new Map(runs.runs?.map((run) => [run.id, run]));
  parts.cwd.placeholder = visible(root);
  parts.grace.placeholder = START.graceHint(grace());
  if (parts.cwd.value === root) parts.cwd.value = '';
  drawScripts();
  showCommand();
  chosenBox()?.parentNode.scrollIntoView({ block: 'nearest' });
}

function searchScripts() {
  clearTimeout(typing);
  const mine = opening, sought = soughtText();
  if (!allScripts?.truncated || !sought) foundScripts = null;
  else {
    typing = setTimeout(async () => {
      const answer = await learn(`pipeline/scripts?find=${encodeURIComponent(sought)}`);
      if (mine !== opening || sought !== soughtText()) return;
      foundScripts = answer;
      drawScripts();
    }, FIND_MS);
  }
  tellProblem();
  drawScripts();
}

const matching = () => (foundScripts ?? allScripts)?.scripts?.filter(({ path }) => path.toLowerCase().includes(soughtText().toLowerCase())) ?? [];
const chosenBox = () => parts.list.querySelector(':checked');

function drawScripts() {
  const answer = foundScripts ?? allScripts, shown = matching();
  // A script that is not in the list gets its own row.
  const isListed = [...(allScripts?.scripts ?? []), ...shown].some(({ path }) => path === chosenScript);
  const drawn = answer && chosenScript && !isListed ? [{ path: chosenScript }, ...shown] : shown;
  parts.list.replaceChildren(...drawn.map(drawScript));
  parts.find.ariaLabel = parts.find.placeholder = visible(START.findScripts(root));
  set(parts.note, !answer ? START.reading : answer.problem ? `${START.noList} ${answer.problem}` : answer.truncated ? START.cut(shown.length)
    : `${shown.length ? '' : soughtText() ? START.noMatch : `${START.noScripts(root)}.`} ${START.whatIsOne}`.trim());
  parts.retry.hidden = !answer?.problem;
  parts.use.hidden = !soughtText() || !answer || drawn.some(({ path }) => path === soughtText());
  set(parts.use, START.use(soughtText()));
}

function drawScript({ path, runs, usual_ms: usual, last_run_id: last }) {
  const run = recent.get(last), end = run && row(run), isBad = /failed|killed|unstarted|lost/.test(end?.tone);
  return el('label', '', el('input', { type: 'radio', name: 'script', className: 'vh', value: path, checked: path === chosenScript }),
    el('span', 'card', code(path), run && timeOf(run.created_at, START.day, formContext.now),
      el('small', '', runs === undefined ? START.notListed(allScripts.problem) : START.ran(runs, usual) + (isBad ? START.lastTime(end.word) : ''))));
}

// Chooses a script. `isFound`: the choice ends the search.
function chooseScript(path, isFound) {
  chosenScript = path;
  tellProblem();
  // The arguments of one script have no meaning for another.
  if (!isEdited && latestStart) fillForm(path === latestStart.script ? latestStart : {});
  if (isFound) {
    parts.find.value = '';
    foundScripts = null;
    drawScripts();
    chosenBox()?.focus();
  }
  showState();
}

// ---- The fields --------------------------------------------------------------------------------------------------------------

// Fills in the start of run `id`.
async function learnChoices(id, isNew, isMissing) {
  const mine = opening, before = chosenScript;
  parts.fields.disabled = true;
  const { start: kept, problem } = await learn(`runs/${id}/start`);
  if (mine !== opening) return;
  parts.fields.disabled = false;
  if (problem) tellProblem(`${START.noChoices(id)} ${problem}`);
  else {
    if (isNew) latestStart = { ...kept, id };
    // The user may have chosen another script meanwhile.
    if (chosenScript === before) chosenScript = kept.script;
    if (chosenScript === kept.script || !isNew) fillForm({ ...kept, id });
  }
  drawScripts();
  showState();
  if (isMissing && !problem) tellProblem(...missing() ?? []);
  // An edit mostly concerns an argument.
  else if (!isNew && !isTouch()) parts.args.focus();
}

// On these devices the keyboard would cover the form.
const isTouch = () => matchMedia('(pointer: coarse)').matches;

function fillForm({ args = [], cwd, env = {}, grace_s: grace, id }) {
  set(parts.from, id ? START.from(id) : '');
  parts.args.value = shellWords(args);
  parts.cwd.value = cwd && cwd !== root ? cwd : '';
  parts.grace.value = grace ?? '';
  rows = [];
  parts.env.replaceChildren();
  for (const [name, value] of Object.entries(env)) addVariable(name, value);
  addVariable();
  isEdited = false;
  showCommand();
}

// Adds a row to the environment. A value of null was not kept.
function addVariable(name = '', kept = '') {
  const row = { kept, name: formField({ value: name, placeholder: START.envName, ariaLabel: START.envName }), value: formField({ value: kept ?? '' }),
    show: button('show', '', () => {
      row.isShown = !row.isShown;
      showVariable(row);
    }),
    remove: iconButton('close', '', () => {
      const n = rows.indexOf(row);
      tellProblem();
      rows.splice(n, 1);
      element.remove();
      rows[n].name.focus();
      isEdited = true;
      showCommand();
    }) };
  const element = el('div', '', row.name, row.value, row.show, row.remove);
  row.value.onpaste = (event) => {
    if (!/[\r\n]/.test(event.clipboardData.getData('text').trim())) return;
    event.preventDefault();
    tellProblem(START.oneLine, row.value);
  };
  rows.push(row);
  parts.env.append(element);
}

// Updates the parts of a row that depend on the variable's name, and on whether its value was kept.
function showVariable({ name: { value: name }, value, kept, isShown, show, remove }) {
  const isSecret = SECRET.test(name);
  value.type = isSecret && !isShown ? 'password' : 'text';
  // The browser must not fill in a password that it has saved for this address.
  value.autocomplete = isSecret ? 'new-password' : 'off';
  value.placeholder = kept === null ? START.notKept : START.envValue;
  value.ariaLabel = visible(START.valueOf(name));
  show.hidden = !isSecret || kept === null;
  value.classList.toggle('hides', !show.hidden);
  set(show, isShown ? T.hide : START.show);
  remove.ariaLabel = remove.title = visible(START.remove(name));
}

// ---- The meaning of the fields ------------------------------------------------------------------------------------------------

// Shows what is wrong, at the field `at` or at the end of the form. Without words, removes the message.
function tellProblem(words = '', at = null) {
  dialog.querySelector('[aria-invalid]')?.removeAttribute('aria-invalid');
  set(parts.wrong, words);
  if (at) {
    at.closest('div').append(parts.wrong);
    at.ariaInvalid = true;
    at.focus();
  } else parts.foot.prepend(parts.wrong);
  if (words) parts.wrong.scrollIntoView({ block: 'nearest' });
}

// Returns the start that the fields describe, even if it is incomplete.
function choices() {
  const seconds = parts.grace.value.trim().replace(',', '.');
  return { script: chosenScript || 'SCRIPT', args: splitLine(parts.args.value).words, cwd: parts.cwd.value || null,
    env: Object.fromEntries(rows.map(({ name, value, kept }) => [name.value, kept ?? value.value]).filter(([name]) => name)),
    grace_s: seconds ? Number(seconds) : null };
}

// Returns what is missing: a sentence, and the field that it concerns.
function missing() {
  const { problem } = splitLine(parts.args.value);
  if (!chosenScript) return [START.chooseOne, parts.find];
  if (problem) return [problem, parts.args];
  for (const [n, { name, value, kept }] of rows.entries()) {
    if (!name.value && value.value) return [START.noName, name];
    if (name.value && kept === null) return [START.notGiven(name.value), value];
    if (name.value && rows.findIndex((row) => row.name.value === name.value) < n) return [START.twice(name.value), name];
  }
  return Number.isNaN(choices().grace_s) ? [START.noNumber, parts.grace] : null;
}

function showCommand() {
  const { words, problem } = splitLine(parts.args.value);
  parts.args.rows = 1;
  while (parts.args.scrollHeight > parts.args.clientHeight && parts.args.rows < ROWS_MAX) parts.args.rows++;
  set(parts.hint, problem || (words.length ? '' : START.argsHint));
  parts.chips.hidden = !words.length;
  parts.chips.replaceChildren(...words.slice(0, CHIPS_MAX).map((word) => el('li', '', word || "''")));
  rows.forEach(showVariable);
  set(parts.command, cli(choices()));
  parts.command.title = parts.command.textContent;
}

// ---- Starting ----------------------------------------------------------------------------------------------------------------

async function learnState() {
  const mine = opening, answer = await learn('pipeline');
  if (mine !== opening) return;
  formState = answer.pipeline ?? formState;
  showState();
}

// Shows the button, and why it is disabled.
function showState() {
  const { run_id: id, state, pending, allowed } = formState;
  const busy = state === 'stopped' ? START.noStart : START.busy(id, pending === 'stop' ? 'stopping' : state);
  const why = document.body.dataset.state === 'unknown' ? T.noConnection : allowed.includes('start') ? '' : busy;
  set(parts.why, isSending ? '' : why);
  parts.go.disabled = !!why && !isSending;
  set(parts.go.lastChild, isSending ? START.starting : chosenScript ? T.startThe(chosenScript) : T.start);
  showCommand();
}

async function startIt() {
  if (isSending) return;
  const mine = opening, wrong = missing();
  tellProblem(...(wrong ?? []));
  if (wrong) return;
  isSending = true;
  showState();
  const answer = await formContext.act('start', choices());
  // The form may have been closed, and opened again, meanwhile. Then the page's own notice reports a refusal.
  if (mine !== opening) return;
  isSending = false;
  if (answer?.ok) dialog.close();
  else if (dialog.open) {
    clearNotice();
    showRefusal(answer);
    learnState();
  }
}

// Shows the server's refusal at the field that it concerns. The sentence begins with the field's name.
function showRefusal(answer) {
  const { error = 'lost', detail = answer ? ANSWERED(answer.status) : BROKE, missing: names = [] } = answer?.body ?? {};
  const row = rows.find(({ name }) => name.value && (names.includes(name.value) || detail.includes(name.value)));
  const at = { script: parts.find, args: parts.args, cwd: parts.cwd, env: (row ?? rows[0]).name, grace_s: parts.grace };
  const place = names.length ? row?.value : at[/^\w*/.exec(detail)[0]] ?? (/_script|script_/.test(error) ? parts.find : null);
  const words = sentence(detail.replace(/^(args|env|cwd|grace_s)\b/, (key) => START[key]));
  tellProblem(place ? words : `${words} ${HINTS[error] ?? NO_HINT}`, place);
}

// ---- The first visit, before the first run: the scripts that can be started, and the commands that do the same from a terminal -------------------

// Shows the scripts. Called with each state.
export function showFirst(element, context) {
  [firstBox, formContext] = [element, context];
  if (formContext.mayAct && performance.now() - readAt > FRESH_MS) readScripts();
  drawFirst();
}

async function readScripts() {
  readAt = performance.now();
  const [scripts, login] = await Promise.all([learn('pipeline/scripts'), isTokenNeeded ?? learn('session')]);
  isTokenNeeded = login.session?.token_needed ?? isTokenNeeded;
  // The shown list stays if it can't be loaded again.
  if (!scripts.problem || !offered?.scripts) offered = scripts;
  drawFirst();
}

function drawFirst() {
  const { mayAct, mayOnlyLook, pipeline, now } = formContext;
  const key = JSON.stringify([mayAct, mayOnlyLook, offered, isTokenNeeded, pipeline.default_script, new Date(now).getDate()]);
  if (drawnFor !== key) {
    drawnFor = key;
    const focused = document.activeElement?.dataset.path;
    firstBox.replaceChildren(el('div', 'in', firstContent(), formContext.mayAct && offered && el('div', '', button('b', T.pair, formContext.pair))));
    starters().find(({ dataset }) => dataset.path === focused)?.focus();
  }
  for (const starter of starters()) starter.disabled = !formContext.connected || !formContext.pipeline.allowed.includes('start') || isStarting;
}

const starters = () => [...firstBox.querySelectorAll('[data-path]')];
const titled = (words, ...text) => el('div', 'hd', el('h2', '', words), el('p', '', ...text));

function firstContent() {
  if (formContext.mayOnlyLook) return titled(START.noRuns, START.youLook);
  if (!formContext.mayAct || !offered) return titled(T.choose, START.reading);
  const { root, scripts, problem, truncated } = offered;
  const retry = button('b', START.tryAgain, readScripts);
  if (problem) return [titled(T.choose, `${START.noList} ${problem}`), el('div', '', retry)];
  if (!scripts.length) {
    return [titled(START.noScripts(root), START.whatIsOne), el('div', '', el('p', '', START.example),
      copyLine(el('pre', { dir: 'ltr', textContent: START.script })), el('p', '', START.saveIt(`${root}/hello.sh`)), retry)];
  }
  const byDefault = formContext.pipeline.default_script, depth = ({ path }) => path.split('/').length;
  // Scripts in the folder itself come before those in its subfolders.
  const sorted = [...scripts].sort((a, b) => (b.path === byDefault) - (a.path === byDefault) || depth(a) - depth(b));
  const script = sorted[0].path, left = sorted.length - SHOWN_MAX;
  const opener = (words) => button('link', words, () => formContext.startForm(sorted[1] ? {} : { script }));
  const token = isTokenNeeded ? ['-H', 'Authorization: Bearer TOKEN'] : [];
  const [before, after] = START.theseAreIn.split('{}');
  return [titled(T.choose, before, code(root), after),
    el('div', '', el('ul', '', sorted.slice(0, SHOWN_MAX).map(scriptRow)), el('p', 'hint', START.whatIsOne), opener(START.withArgs),
      left > 0 && opener(START.more(left, truncated)), el('h3', '', START.elsewhere),
      [cli({ script }), curl({ script }, ...token)].map((text) => copyLine(code(text), () => text)))];
}

function scriptRow({ path, size, modified_at: time }, n, { length }) {
  // The page has one filled button at most: in the top bar, if that starts a script, otherwise for the only script.
  const starter = acting(length > 1 || formContext.pipeline.default_script ? 'b sm' : 'b sm prime', T.start, async () => {
    isStarting = true;
    drawFirst();
    await formContext.act('start', { script: path });
    isStarting = false;
    drawFirst();
  });
  starter.dataset.path = path;
  starter.ariaLabel = visible(`${T.start} ${path}`);
  return el('li', '', icon('file'), code(path), el('span', { dir: 'ltr' }, bytes(size)), timeOf(time, START.day, formContext.now), starter);
}
