//! The calls the stand-in received, and what was arranged to happen to the next ones.

use std::collections::{HashMap, VecDeque};

use super::{
    call::{Call, Endpoint},
    fault::{Fault, Held, Hold},
    world::World,
};

#[derive(Default)]
pub struct Traffic {
    faults: Vec<(Endpoint, Fault, Option<u32>)>,
    holds: Vec<(Endpoint, Held)>,
    calls: VecDeque<Call>,
    counts: HashMap<Endpoint, usize>,
}

impl World {
    /// From now on `endpoint` fails, until healed.
    pub fn fail(&mut self, endpoint: Endpoint, fault: Fault) {
        self.traffic.faults.push((endpoint, fault, None));
    }

    /// The next `times` calls of `endpoint` fail; several of these follow each other.
    pub fn fail_times(&mut self, endpoint: Endpoint, fault: Fault, times: u32) {
        self.traffic.faults.push((endpoint, fault, Some(times)));
    }

    pub fn heal(&mut self) {
        self.traffic.faults.clear();
    }

    /// Requests to `endpoint` are recorded and then wait, not yet carried out, until the hold is released.
    pub fn hold(&mut self, endpoint: Endpoint) -> Hold {
        let (hold, held) = Hold::new();
        self.traffic.holds.retain(|(_, old)| !old.is_over());
        self.traffic.holds.push((endpoint, held));
        hold
    }

    /// How often `endpoint` was called since the log was last cleared.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.traffic.counts.get(&endpoint).copied().unwrap_or_default()
    }

    /// Calls in order of arrival, faulty and held ones included.
    pub fn calls(&self) -> Vec<Call> {
        self.traffic.calls.iter().cloned().collect()
    }

    pub fn calls_to(&self, endpoint: Endpoint) -> Vec<Call> {
        let to = |call: &&Call| call.endpoint == endpoint;
        self.traffic.calls.iter().filter(to).cloned().collect()
    }

    pub fn last_call(&self, endpoint: Endpoint) -> Option<Call> {
        self.traffic.calls.iter().rev().find(|call| call.endpoint == endpoint).cloned()
    }

    pub fn clear_calls(&mut self) {
        self.traffic.calls.clear();
        self.traffic.counts.clear();
    }

    /// Records a call; says what it has to wait for, and how it shall fail.
    pub(super) fn arrived(&mut self, call: &Call) -> (Vec<Held>, Option<Fault>) {
        if self.traffic.calls.len() == CALLS_KEPT {
            self.traffic.calls.pop_front();
        }
        self.traffic.calls.push_back(call.clone());
        *self.traffic.counts.entry(call.endpoint).or_default() += 1;
        let holds = self.traffic.holds.iter().filter(|(at, _)| *at == call.endpoint);
        let holds = holds.map(|(_, held)| held.clone()).collect();
        (holds, self.next_fault(call.endpoint))
    }

    fn next_fault(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let at = self.traffic.faults.iter().position(|(at, _, left)| *at == endpoint && *left != Some(0))?;
        let (_, fault, left) = &mut self.traffic.faults[at];
        if let Some(left) = left {
            *left -= 1;
        }
        Some(fault.clone())
    }
}

/// A stand-in that runs for days under load must not grow.
const CALLS_KEPT: usize = 10_000;
