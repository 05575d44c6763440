// A browser notification for the end of a run, shown while this page is hidden, for users who have turned that on in the menu. Browsers allow
// notifications in secure contexts only: on this machine, or over HTTPS. Every hidden page of a server makes the same notification with the same
// tag, so the browser shows one.

import { $, set } from './dom.js';
import { host, inStorage } from './session.js';
import { T, visible } from './words.js';

const NOTIFY_KEY = 'autoappdev-notify';
const notifier = $('notify');
const isPossible = 'Notification' in window && isSecureContext;
let wasAlive = null;      // the run that was alive when the last state was shown

function isWanted() {
  return isPossible && Notification.permission === 'granted' && inStorage(() => localStorage.getItem(NOTIFY_KEY)) === 'true';
}

function showNotifier() {
  notifier.hidden = !isPossible;
  notifier.disabled = isPossible && Notification.permission === 'denied';
  set(notifier, notifier.disabled ? T.notGranted : isWanted() ? T.notifying : T.notify);
}

notifier.onclick = async () => {
  const wants = !isWanted();
  if (wants) await Notification.requestPermission();
  inStorage(() => localStorage.setItem(NOTIFY_KEY, wants));
  showNotifier();
};

// Takes each new state, with the words for it.
export function noticeEnd(pipeline, looks) {
  const hasEnded = wasAlive === pipeline.run_id && pipeline.state === 'stopped' && !pipeline.pending;
  if (pipeline.state !== 'stopped') wasAlive = pipeline.run_id;
  if (!hasEnded) return;
  wasAlive = null;
  if (!document.hidden || !isWanted()) return;
  const name = visible((pipeline.script ?? '').split('/').pop());
  const notice = new Notification(`${name} · ${looks.word}`, {
    body: visible(looks.detail ?? ''), tag: `${host()}-${pipeline.run_id}`, icon: `static/icon-${looks.tone}.svg`,
  });
  notice.onclick = () => {
    window.focus();
    location.hash = `#/runs/${pipeline.run_id}`;
    notice.close();
  };
}

showNotifier();
