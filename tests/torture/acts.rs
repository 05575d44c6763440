//! What can happen to the pipeline and the processes around it: actions of clients, and signals from other processes.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

use super::dice::Dice;
use super::model::{Script, Stands};

/// The graces of stops, in seconds. The longest is below the victims' patience and the driver's.
const GRACES_S: [f64; 4] = [0.0, 0.02, 0.1, 0.3];

/// The graces of runs, in seconds, for stops that name none and for a TERM to the shim. Never 0, so that `stopping` is always
/// recorded.
const OWN_GRACES_S: [f64; 3] = [0.05, 0.1, 0.3];

/// The longest time for which a process is held with SIGSTOP. Well below the five seconds after which health reports a silent
/// process.
const HOLD_MAX: Duration = Duration::from_millis(100);

/// The longest wait before the next act.
const MOMENT_MAX: Duration = Duration::from_millis(40);

/// One act.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Start {
        script: Script,
        grace_s: f64,
    },
    Pause,
    Resume,
    Stop {
        grace_s: f64,
    },
    KillServer,
    TermServer,
    /// Starts a server and kills it after this time.
    KillBooting(Duration),
    FreezeServer(Duration),
    /// A second server on the same runtime directory.
    SecondServer,
    KillShim,
    TermShim,
    FreezeShim(Duration),
    KillShimThenServer,
    KillServerThenShim,
    KillLeader,
    TermLeader,
    Usr1Leader,
    StopLeader,
    ContLeader,
    /// STOP and CONT in turns with this gap. The last one is a STOP or a CONT.
    Waver {
        times: usize,
        gap: Duration,
    },
    KillKin,
    StopKin(Duration),
}

impl Act {
    /// Returns the name for the tally and for readers.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop { .. } => "stop",
            Self::KillServer => "KILL server",
            Self::TermServer => "TERM server",
            Self::KillBooting(_) => "KILL booting server",
            Self::FreezeServer(_) => "STOP+CONT server",
            Self::SecondServer => "second server",
            Self::KillShim => "KILL shim",
            Self::TermShim => "TERM shim",
            Self::FreezeShim(_) => "STOP+CONT shim",
            Self::KillShimThenServer => "KILL shim+server",
            Self::KillServerThenShim => "KILL server+shim",
            Self::KillLeader => "KILL leader",
            Self::TermLeader => "TERM leader",
            Self::Usr1Leader => "leader exits",
            Self::StopLeader => "STOP leader",
            Self::ContLeader => "CONT leader",
            Self::Waver { .. } => "STOP, CONT, ... leader",
            Self::KillKin => "KILL child",
            Self::StopKin(_) => "STOP+CONT child",
        }
    }

    /// Returns the path and the body, if the act is a client's request.
    pub(crate) fn request(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Start { script, grace_s } => Some(("/api/pipeline/start", script.body(*grace_s).to_string())),
            Self::Pause => Some(("/api/pipeline/pause", "{}".to_owned())),
            Self::Resume => Some(("/api/pipeline/resume", "{}".to_owned())),
            Self::Stop { grace_s } => Some(("/api/pipeline/stop", format!("{{\"grace_s\":{grace_s}}}"))),
            _ => None,
        }
    }

    /// Returns whether no run survives the act.
    pub(crate) fn ends_a_run(&self) -> bool {
        matches!(self, Self::KillShim | Self::KillShimThenServer | Self::KillServerThenShim | Self::TermShim | Self::KillLeader)
    }

    /// Returns the event that the history contains once the act was answered with 200, one for each response. Stops have no
    /// such event, because several stops can be answered with one end.
    pub(crate) fn promise(&self) -> Option<&'static str> {
        match self {
            Self::Start { .. } => Some("spawned"),
            Self::Pause => Some("paused"),
            Self::Resume => Some("resumed"),
            _ => None,
        }
    }

    /// Returns whether the act only concerns the run.
    pub(crate) fn can_do_without_server(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Pause
            | Self::Resume
            | Self::Stop { .. }
            | Self::KillServer
            | Self::TermServer
            | Self::KillBooting(_)
            | Self::FreezeServer(_)
            | Self::SecondServer
            | Self::KillShimThenServer
            | Self::KillServerThenShim => false,
            Self::KillShim
            | Self::TermShim
            | Self::FreezeShim(_)
            | Self::KillLeader
            | Self::TermLeader
            | Self::Usr1Leader
            | Self::StopLeader
            | Self::ContLeader
            | Self::Waver { .. }
            | Self::KillKin
            | Self::StopKin(_) => true,
        }
    }

    /// Returns the last signal of a series.
    pub(crate) fn last_signal(times: usize) -> Signal {
        if times % 2 == 1 { Signal::STOP } else { Signal::CONT }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Start { script, grace_s } => write!(f, " {} {} (grace {grace_s})", script.name, script.args.join(" ")),
            Self::Stop { grace_s } => write!(f, " (grace {grace_s})"),
            Self::KillBooting(time) | Self::FreezeServer(time) | Self::FreezeShim(time) | Self::StopKin(time) => {
                write!(f, " ({time:?})")
            }
            Self::Waver { times, gap } => write!(f, " ({times} times, {gap:?})"),
            _ => Ok(()),
        }
    }
}

/// The choices of acts.
impl Dice {
    pub(crate) fn pause_between(&mut self) -> Duration {
        self.moment(MOMENT_MAX)
    }

    fn hold(&mut self) -> Duration {
        self.moment(HOLD_MAX)
    }

    pub(crate) fn start(&mut self) -> Act {
        Act::Start { script: Script::random(self), grace_s: *self.pick(&OWN_GRACES_S) }
    }

    pub(crate) fn stop(&mut self) -> Act {
        Act::Stop { grace_s: *self.pick(&GRACES_S) }
    }

    fn waver(&mut self) -> Act {
        Act::Waver { times: 2 + self.roll(5), gap: self.moment(Duration::from_millis(4)) }
    }

    /// Returns one act for a round in which nothing else happens.
    pub(crate) fn act(&mut self, stands: Option<Stands>) -> Act {
        let (hold, boot, start, stop, waver) =
            (self.hold(), self.moment(Duration::from_millis(30)), self.start(), self.stop(), self.waver());
        let Some(stands) = stands else {
            return self.weighed(&[
                (72, start),
                (6, Act::KillServer),
                (4, Act::TermServer),
                (5, Act::KillBooting(boot)),
                (2, Act::FreezeServer(hold)),
                (2, Act::SecondServer),
                (3, Act::Pause),
                (3, Act::Resume),
                (5, stop),
            ]);
        };
        let (right, wrong) = if stands == Stands::Paused { (Act::Resume, Act::Pause) } else { (Act::Pause, Act::Resume) };
        self.weighed(&[
            (16, right),
            (3, wrong),
            (2, start),
            (12, stop),
            (9, Act::KillServer),
            (4, Act::TermServer),
            (5, Act::KillBooting(boot)),
            (3, Act::FreezeServer(hold)),
            (3, Act::SecondServer),
            (5, Act::KillShim),
            (4, Act::TermShim),
            (6, Act::FreezeShim(hold)),
            (3, Act::KillShimThenServer),
            (3, Act::KillServerThenShim),
            (5, Act::KillLeader),
            (4, Act::TermLeader),
            (5, Act::Usr1Leader),
            (8, Act::StopLeader),
            (8, Act::ContLeader),
            (5, waver),
            (5, Act::KillKin),
            (5, Act::StopKin(hold)),
        ])
    }

    /// Returns a request whose response is not awaited.
    pub(crate) fn shot(&mut self, stands: Option<Stands>) -> Act {
        let (start, stop) = (self.start(), self.stop());
        match stands {
            None => self.weighed(&[(90, start), (5, Act::Pause), (5, stop)]),
            Some(Stands::Paused) => self.weighed(&[(45, Act::Resume), (40, stop), (10, Act::Pause), (5, start)]),
            Some(_) => self.weighed(&[(50, Act::Pause), (38, stop), (7, Act::Resume), (5, start)]),
        }
    }

    /// Returns an act that happens meanwhile.
    pub(crate) fn fault(&mut self) -> Act {
        let (hold, waver) = (self.hold(), self.waver());
        self.weighed(&[
            (24, Act::KillServer),
            (6, Act::TermServer),
            (4, Act::FreezeServer(hold)),
            (12, Act::KillShim),
            (6, Act::TermShim),
            (10, Act::FreezeShim(hold)),
            (5, Act::KillShimThenServer),
            (5, Act::KillServerThenShim),
            (10, Act::KillLeader),
            (4, Act::TermLeader),
            (8, Act::Usr1Leader),
            (8, Act::StopLeader),
            (8, Act::ContLeader),
            (4, waver),
        ])
    }
}
