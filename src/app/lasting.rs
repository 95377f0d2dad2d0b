//! What outlives a change of configuration: records, what is under way, and what is counted.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{StartError, Tuning, bounds, secure};
use crate::clock::Clock;
use crate::config::Config;
use crate::gate::Gate;
use crate::github::credential::Flights;
use crate::limit::{Limiters, Rates};
use crate::oauth::{self, Spent};
use crate::protocol::token::FamilyId;
use crate::server::{Readiness, Tallies};
use crate::store::Records;
use crate::store::still::{Noted, Still};
use crate::store::watched::{Verb, Watched, Watcher};
use crate::telemetry::Telemetry;
use crate::telemetry::audit::{Audit, Destination};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Tracer};
use crate::tls::{self, Files, Shown};

/// All of it, from the start to the end.
pub(super) struct Lasting {
    pub clock: Clock,
    pub side: Handle,
    /// Without our MAC: it comes and goes with the keys.
    pub records: Arc<dyn Records>,
    /// What is known of them without asking.
    pub still: Arc<Still>,
    pub flights: Arc<Flights>,
    pub gates: Gates,
    pub tallies: Tallies,
    /// Logins that are over.
    pub spent: Spent,
    limiters: Mutex<Option<(Rates, Arc<Limiters>)>>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    tracer: Mutex<Option<(traces::Settings, Tracer)>>,
    shown: Mutex<Option<Showing>>,
}

/// A certificate that is shown, and who looks after it.
struct Showing {
    files: Files,
    shown: Arc<Shown>,
    follower: AbortHandle,
}

impl Lasting {
    pub(super) fn new(config: &Config, records: Arc<dyn Records>, clock: &Clock, side: &Handle) -> Self {
        let metrics: Arc<Metrics> = Arc::default();
        let (counted, still) = (metrics.clone(), Arc::<Still>::default());
        let tell: Watcher =
            Arc::new(move |verb: Verb, took, answered| counted.store(verb.name(), took, answered));
        Lasting {
            clock: clock.clone(),
            side: side.clone(),
            records: Arc::new(Noted::new(
                Arc::new(Watched::new(records, tell)),
                still.clone(),
                clock.clone(),
            )),
            still,
            flights: Arc::default(),
            gates: Gates::default(),
            tallies: bounds::tallies(config),
            spent: oauth::spent(),
            limiters: Mutex::default(),
            readiness: Arc::default(),
            metrics,
            tracer: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// What was counted so far goes on while the rates are the same.
    pub(super) fn limiters(&self, rates: &Rates) -> Arc<Limiters> {
        let mut known = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, limiters)) = &*known
            && before == rates
        {
            return limiters.clone();
        }
        known.insert((*rates, Arc::new(Limiters::new(rates, &self.clock)))).1.clone()
    }

    /// What operators are told, as configured. The trail is opened anew, so that it can be rotated; spans that wait
    /// are sent where they were to go.
    pub(super) fn telemetry(&self, config: &Config) -> Result<Telemetry, StartError> {
        let audit = trail(config.audit.clone())?;
        let tracer = self.tracer(config)?;
        Ok(Telemetry::new(self.metrics.clone(), audit, tracer, self.clock.clone()))
    }

    fn tracer(&self, config: &Config) -> Result<Option<Tracer>, StartError> {
        let mut known = self.tracer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(settings) = &config.traces else {
            *known = None;
            return Ok(None);
        };
        if let Some((before, tracer)) = &*known
            && before == settings
        {
            return Ok(Some(tracer.clone()));
        }
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let client = tls::client(client, &config.authorities)?;
        let tracer = Tracer::start(settings, client, self.side.clone());
        let tracer = tracer.map_err(|error| StartError::Traces(error.to_string()))?;
        Ok(Some(known.insert((settings.clone(), tracer)).1.clone()))
    }

    /// Sends what is left of traces. Blocks, for so long at most.
    pub(super) fn farewell(&self, within: Duration) {
        if let Some((_, tracer)) = &*self.tracer.lock().unwrap_or_else(PoisonError::into_inner) {
            tracer.stop(within);
        }
    }

    /// The certificate as configured: the one that is shown already, or one that is followed from now on.
    pub(super) fn shown(&self, config: &Config, tuning: &Tuning) -> Result<Option<Arc<Shown>>, StartError> {
        let mut showing = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(showing), Some(files)) = (&*showing, &config.tls)
            && showing.files == *files
        {
            return Ok(Some(showing.shown.clone()));
        }
        let next = secure::shown(config, &self.clock, tuning)?.zip(config.tls.clone());
        let next = next.map(|(shown, files)| {
            let follower = self.side.spawn(shown.clone().follow(self.clock.clone(), tuning.tls_files));
            Showing { files, shown, follower: follower.abort_handle() }
        });
        let shown = next.as_ref().map(|next| next.shown.clone());
        if let Some(before) = std::mem::replace(&mut *showing, next) {
            before.follower.abort();
        }
        Ok(shown)
    }
}

/// Opens the audit trail, where there is to be one.
pub(super) fn trail(destination: Option<Destination>) -> Result<Option<Arc<Audit>>, StartError> {
    let opened = destination.map(|destination| {
        let opened = Audit::open(destination.clone());
        opened.map(Arc::new).map_err(|source| StartError::Audit { destination, source })
    });
    opened.transpose()
}

/// Every gate that somebody still goes through: streams hold the one that they came by.
#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Mutex<Vec<Weak<Gate>>>>);

impl Gates {
    pub(super) fn join(&self, gate: &Arc<Gate>) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|gate| gate.strong_count() > 0);
        gates.iter().filter_map(Weak::upgrade).for_each(|before| before.hand_over(gate.clone()));
        gates.push(Arc::downgrade(gate));
    }

    /// Tells all of them that a family has ended.
    pub(super) fn forget(&self, id: &FamilyId) {
        self.all().iter().for_each(|gate| gate.forget(id));
    }

    /// All of them drop what nobody has used for a while.
    pub(super) fn tidy(&self) {
        self.all().iter().for_each(|gate| gate.tidy());
    }

    fn all(&self) -> Vec<Arc<Gate>> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter_map(Weak::upgrade).collect()
    }
}
