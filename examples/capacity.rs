//! What a region of so many people needs: a working day of theirs, minute by minute, with chance in it.
//! `cargo run --example capacity -- --users 1000000`
//!
//! What people do is assumed, what that costs was measured; every number can be set by a flag. docs/scaling.md says
//! how the measured ones came about. Does not know the proxy: it only reckons.

use std::fmt::Display;

use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Simulates a working day and prints what its busiest minute needs
#[derive(Parser)]
struct Arguments {
    /// People with a login
    #[arg(long, default_value_t = 1_000_000)]
    users: u64,
    /// Another seed is another day
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    habits: Habits,
    #[command(flatten)]
    costs: Costs,
    #[command(flatten)]
    limits: Limits,
}

/// Assumed: what people and their clients do on a working day
#[derive(clap::Args)]
struct Habits {
    /// Share of the people who use a client that day
    #[arg(long, default_value_t = 0.35)]
    active: f64,
    /// Clients of a person, on average; each has a login (a family) of its own
    #[arg(long, default_value_t = 1.6)]
    clients: f64,
    /// Times a day that a client is put to work, on average
    #[arg(long, default_value_t = 12.0)]
    bursts: f64,
    /// Minutes that such a burst lasts, on average
    #[arg(long, default_value_t = 6.0)]
    burst_minutes: f64,
    /// Calls in a minute of a burst, on average: agents come in all speeds
    #[arg(long, default_value_t = 5.0)]
    calls: f64,
    /// Middle of the morning, in hours
    #[arg(long, default_value_t = 10.25)]
    morning: f64,
    /// Middle of the afternoon, in hours
    #[arg(long, default_value_t = 15.0)]
    afternoon: f64,
    /// Hours around these middles (standard deviation)
    #[arg(long, default_value_t = 1.25)]
    spread: f64,
    /// Share of the work that is done in the morning
    #[arg(long, default_value_t = 0.55)]
    mornings: f64,
    /// Share of the clients that keep an event stream open from their first burst on
    #[arg(long, default_value_t = 0.5)]
    streaming: f64,
    /// Minutes that such a stream outlives the last burst
    #[arg(long, default_value_t = 30)]
    linger: usize,
    /// Share of the clients in use that are new, or were unused for a month, and log in
    #[arg(long, default_value_t = 0.01)]
    new: f64,
    /// Days after which a login ends however much it is used (`tokens.refresh_max`)
    #[arg(long, default_value_t = 180.0)]
    login_days: f64,
    /// Minutes after which an access token is refreshed (`tokens.access`)
    #[arg(long, default_value_t = 480)]
    access_minutes: usize,
}

/// Measured, by the tests named behind each (tests/scale.rs; commands in docs/scaling.md): what things cost
#[derive(clap::Args)]
struct Costs {
    /// Processor time of a call whose family was read within the second, in microseconds (`a_call_costs`)
    #[arg(long, default_value_t = 30.0)]
    call_micros: f64,
    /// What looking at a family and its credential in PostgreSQL adds, in microseconds: from 60 among many
    /// (`a_hundred_thousand`) to 200 alone (`a_call_costs`)
    #[arg(long, default_value_t = 100.0)]
    load_micros: f64,
    /// Processor time of a refresh, in microseconds (`refreshes_and_logins`)
    #[arg(long, default_value_t = 300.0)]
    refresh_micros: f64,
    /// Processor time of a login, in microseconds (`refreshes_and_logins`)
    #[arg(long, default_value_t = 1_300.0)]
    login_micros: f64,
    /// Processor time of a silent stream for a second, its looks at the store included, in microseconds
    /// (`a_silent_stream`)
    #[arg(long, default_value_t = 7.0)]
    stream_micros: f64,
    /// Memory of a silent stream, in KiB (`benches/proxy/run --only sse`)
    #[arg(long, default_value_t = 4.0)]
    stream_kib: f64,
    /// Memory of a family in the gate's cache, in bytes (`a_hundred_thousand`)
    #[arg(long, default_value_t = 280.0)]
    live_bytes: f64,
    /// Memory of the program with a few connections, in MiB (`a_hundred_thousand`)
    #[arg(long, default_value_t = 20.0)]
    idle_mib: f64,
    /// A family in PostgreSQL with its indices, in bytes (`a_hundred_thousand`)
    #[arg(long, default_value_t = 570.0)]
    family_bytes: f64,
    /// A credential in PostgreSQL with its indices, in bytes (`a_hundred_thousand`)
    #[arg(long, default_value_t = 480.0)]
    credential_bytes: f64,
    /// Processor time of PostgreSQL for a read, in microseconds (`a_hundred_thousand`)
    #[arg(long, default_value_t = 43.0)]
    read_micros: f64,
    /// Processor time of PostgreSQL for a write, in microseconds: what a refresh or a login takes there without its
    /// reads (`refreshes_and_logins`)
    #[arg(long, default_value_t = 200.0)]
    write_micros: f64,
    /// Reads of the store for a look at a family (this and those below are held by `every_step_of_a_login`)
    #[arg(long, default_value_t = 2.0)]
    load_reads: f64,
    /// Reads of the store for a refresh
    #[arg(long, default_value_t = 4.0)]
    refresh_reads: f64,
    /// Writes to the store for a refresh
    #[arg(long, default_value_t = 2.0)]
    refresh_writes: f64,
    /// Reads of the store for a login
    #[arg(long, default_value_t = 2.0)]
    login_reads: f64,
    /// Writes to the store for a login
    #[arg(long, default_value_t = 4.0)]
    login_writes: f64,
    /// Reads of the store for a check at GitHub
    #[arg(long, default_value_t = 2.0)]
    check_reads: f64,
    /// Writes to the store for a check at GitHub
    #[arg(long, default_value_t = 1.0)]
    check_writes: f64,
}

/// Given: by the program, by GitHub, by the machines
#[derive(clap::Args)]
struct Limits {
    /// Minutes between two checks at GitHub of a credential in use
    #[arg(long, default_value_t = 15)]
    check_minutes: usize,
    /// Seconds between two looks of an open stream at its family
    #[arg(long, default_value_t = 15.0)]
    look_seconds: f64,
    /// Token checks that GitHub allows an app in an hour; 15000 when an Enterprise Cloud organisation owns it
    #[arg(long, default_value_t = 5_000.0)]
    github_checks: f64,
    /// Token requests (logins, and refreshes of a GitHub App's tokens) that GitHub allows an app in an hour
    #[arg(long, default_value_t = 2_000.0)]
    github_tokens: f64,
    /// Minutes that GitHub's own tokens last; 480 for a GitHub App with expiring tokens, for ever with 0
    #[arg(long, default_value_t = 0)]
    github_minutes: usize,
    /// Cores of a replica
    #[arg(long, default_value_t = 4.0)]
    replica_cores: f64,
    /// Share of its cores that a replica may use in the busiest minute
    #[arg(long, default_value_t = 0.5)]
    replica_use: f64,
    /// Descriptors of a replica; a stream takes two
    #[arg(long, default_value_t = 131_072.0)]
    replica_descriptors: f64,
    /// Memory of a replica, in MiB
    #[arg(long, default_value_t = 4_096.0)]
    replica_mib: f64,
}

const MINUTES: usize = 24 * 60;
/// A family stays in the gate's cache for two minutes after its last call.
const REMEMBERED: usize = 2;

/// What happens in a minute of the day, in all.
#[derive(Clone, Copy, Default)]
struct Minute {
    calls: f64,
    /// Looks at a family in the store because somebody called, and because a stream is open.
    call_looks: f64,
    stream_looks: f64,
    streams: f64,
    live: f64,
    refreshes: f64,
    logins: f64,
    /// Checks at GitHub beside those of refreshes.
    checks: f64,
    /// Refreshes of GitHub's own tokens.
    github_refreshes: f64,
}

struct Day {
    minutes: Vec<Minute>,
    people: u64,
    clients: u64,
    /// Checks of one person in an hour, at most.
    most_checks: u32,
}

/// What one client does: calls in each minute, and until when it listens.
struct Work {
    calls: [f64; MINUTES],
    first: usize,
    last: usize,
}

fn main() {
    let arguments = Arguments::parse();
    let day = simulate(&arguments);
    report(&arguments, &day);
}

// === The day ===

fn simulate(arguments: &Arguments) -> Day {
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let mut day = Day { minutes: vec![Minute::default(); MINUTES], people: 0, clients: 0, most_checks: 0 };
    for _ in 0..arguments.users {
        if rng.random::<f64>() < arguments.habits.active {
            live_through(arguments, &mut rng, &mut day);
        }
    }
    day
}

/// One person's day. Clients share the person's credential, which is checked at GitHub while any of them is used.
fn live_through(arguments: &Arguments, rng: &mut StdRng, day: &mut Day) {
    let mut in_use = [false; MINUTES];
    let mut checks = [0; MINUTES];
    day.people += 1;
    for _ in 0..1 + poisson(rng, arguments.habits.clients - 1.0) {
        let Some(work) = work(&arguments.habits, rng) else { continue };
        day.clients += 1;
        let streams = rng.random::<f64>() < arguments.habits.streaming;
        use_client(arguments, &work, streams, day, &mut in_use);
        renew(&arguments.habits, rng, &work, day, &mut checks);
    }
    keep_credential(&arguments.limits, day, &in_use, &mut checks);
    let hours = checks.windows(60).map(|hour| hour.iter().sum());
    day.most_checks = day.most_checks.max(hours.max().unwrap_or(0));
}

/// A refresh checks the credential too.
fn keep_credential(limits: &Limits, day: &mut Day, in_use: &[bool], checks: &mut [u32]) {
    let (mut checked, mut refreshed): (Option<usize>, Option<usize>) = (None, None);
    let is_due = |last: Option<usize>, now: usize, every| last.is_none_or(|last| now - last >= every);
    for number in (0..MINUTES).filter(|number| in_use[*number]) {
        let minute = &mut day.minutes[number];
        if checks[number] == 0 && is_due(checked, number, limits.check_minutes) {
            minute.checks += 1.0;
            checks[number] = 1;
        }
        if checks[number] > 0 {
            checked = Some(number);
        }
        if limits.github_minutes > 0 && is_due(refreshed, number, limits.github_minutes) {
            minute.github_refreshes += 1.0;
            refreshed = Some(number);
        }
    }
}

/// When a client is put to work, and how hard.
fn work(habits: &Habits, rng: &mut StdRng) -> Option<Work> {
    let mut calls = [0.0; MINUTES];
    for _ in 0..poisson(rng, habits.bursts) {
        let middle = if rng.random::<f64>() < habits.mornings { habits.morning } else { habits.afternoon };
        let start = (middle + habits.spread * normal(rng)) * 60.0;
        let start = start.clamp(0.0, MINUTES as f64 - 1.0) as usize;
        let length = (exponential(rng) * habits.burst_minutes).ceil() as usize;
        let pace = exponential(rng) * habits.calls;
        let end = (start + length).min(MINUTES);
        calls[start..end].iter_mut().for_each(|calls| *calls += pace);
    }
    let first = calls.iter().position(|calls| *calls > 0.0)?;
    let last = calls.iter().rposition(|calls| *calls > 0.0)?;
    Some(Work { calls, first, last })
}

fn use_client(
    arguments: &Arguments,
    work: &Work,
    streams: bool,
    day: &mut Day,
    in_use: &mut [bool; MINUTES],
) {
    let end = if streams { work.last + arguments.habits.linger } else { work.last + REMEMBERED };
    let mut remembered = 0;
    for (number, in_use) in in_use.iter_mut().enumerate().take(end + 1).skip(work.first) {
        let (minute, calls) = (&mut day.minutes[number], work.calls[number]);
        remembered = if calls > 0.0 || streams { REMEMBERED + 1 } else { remembered };
        if remembered > 0 {
            remembered -= 1;
            minute.live += 1.0;
        }
        minute.calls += calls;
        // A family is read once in each second that has a call.
        minute.call_looks += 60.0 * (1.0 - (59.0_f64 / 60.0).powf(calls));
        if streams {
            minute.streams += 1.0;
            minute.stream_looks += 60.0 / arguments.limits.look_seconds;
        }
        *in_use |= calls > 0.0 || streams;
    }
}

/// The first thing a client does in the morning is to refresh, or to log in; it refreshes again when it must.
fn renew(habits: &Habits, rng: &mut StdRng, work: &Work, day: &mut Day, checks: &mut [u32; MINUTES]) {
    let mut renewed = work.first;
    let logs_in = rng.random::<f64>() < habits.new + 1.0 / habits.login_days;
    let first = &mut day.minutes[work.first];
    *(if logs_in { &mut first.logins } else { &mut first.refreshes }) += 1.0;
    if !logs_in {
        checks[work.first] += 1;
    }
    for (minute, calls) in work.calls.iter().enumerate() {
        if *calls > 0.0 && minute >= renewed + habits.access_minutes {
            renewed = minute;
            day.minutes[minute].refreshes += 1.0;
            checks[minute] += 1;
        }
    }
}

// === What it needs ===

impl Minute {
    /// The looks of streams are part of what a silent stream costs.
    fn cores(&self, costs: &Costs) -> f64 {
        let micros = self.calls * costs.call_micros
            + self.call_looks * costs.load_micros
            + self.refreshes * costs.refresh_micros
            + self.logins * costs.login_micros;
        micros / 60e6 + self.streams * costs.stream_micros / 1e6
    }

    fn reads(&self, costs: &Costs) -> f64 {
        ((self.call_looks + self.stream_looks) * costs.load_reads
            + self.refreshes * costs.refresh_reads
            + self.logins * costs.login_reads
            + self.checks * costs.check_reads)
            / 60.0
    }

    fn server_cores(&self, costs: &Costs) -> f64 {
        (self.reads(costs) * costs.read_micros + self.writes(costs) * costs.write_micros) / 1e6
    }

    fn writes(&self, costs: &Costs) -> f64 {
        (self.refreshes * costs.refresh_writes
            + self.logins * costs.login_writes
            + self.checks * costs.check_writes)
            / 60.0
    }
}

fn report(arguments: &Arguments, day: &Day) {
    let Arguments { users, habits, costs, limits, .. } = arguments;
    let most = |of: &dyn Fn(&Minute) -> f64| day.minutes.iter().map(of).fold(0.0, f64::max);
    let cores = most(&|minute| minute.cores(costs));
    let at = day.minutes.iter().position(|minute| minute.cores(costs) == cores).unwrap_or_default();
    let minute = &day.minutes[at];
    println!(
        "A working day of {} people: {} active, {} clients",
        spaced(*users),
        spaced(day.people),
        spaced(day.clients)
    );
    println!("\nBusiest minute, {:02}:{:02}", at / 60, at % 60);
    line("calls", minute.calls / 60.0, "per s");
    line("looks at a family", minute.call_looks / 60.0, "per s, for calls");
    line("", minute.stream_looks / 60.0, "per s, for open streams");
    line("refreshes", minute.refreshes / 60.0, "per s");
    line("logins", minute.logins / 60.0, "per s");
    line("store reads", minute.reads(costs), "per s");
    line("store writes", minute.writes(costs), "per s");
    line("cores busy", cores, "");
    line("cores of PostgreSQL busy", minute.server_cores(costs), "");
    println!("\nMost at any time");
    let (streams, live) = (most(&|minute| minute.streams), most(&|minute| minute.live));
    let writes = most(&|minute| minute.writes(costs));
    line("store writes", writes, "per s");
    line("open streams", streams, "");
    line("their memory", streams * costs.stream_kib / 1024.0, "MiB");
    line("live families", live, "");
    line("their memory", live * costs.live_bytes / 1_048_576.0, "MiB");
    println!("\nStore");
    let families = *users as f64 * habits.clients;
    line("families", families, "");
    line("credentials", *users as f64, "");
    let bytes = families * costs.family_bytes + *users as f64 * costs.credential_bytes;
    line("size in PostgreSQL", bytes / 1_048_576.0, "MiB");
    println!("\nGitHub, busiest hour");
    let checks = busiest_hour(day, |minute| minute.checks + minute.refreshes);
    let tokens = busiest_hour(day, |minute| minute.logins + minute.github_refreshes);
    against("token checks", checks, limits.github_checks, *users);
    against("token requests", tokens, limits.github_tokens, *users);
    // Asked with each person's own token instead (`GET /user`), checks would count against that person's limit.
    line("checks of one person", f64::from(day.most_checks), "of their own 5 000");
    println!(
        "\nReplicas of {} cores, {} MiB, {} descriptors",
        limits.replica_cores, limits.replica_mib, limits.replica_descriptors
    );
    let memory = streams * costs.stream_kib / 1024.0 + live * costs.live_bytes / 1_048_576.0;
    let needed = [
        ("for their cores", cores / (limits.replica_cores * limits.replica_use)),
        ("for their memory", memory / (limits.replica_mib - costs.idle_mib)),
        // And a quarter for everything that is no stream.
        ("for their descriptors", 2.0 * streams / (limits.replica_descriptors * 0.75)),
    ];
    needed.iter().for_each(|(why, number)| line(why, number.ceil(), ""));
    let most_needed = needed.iter().map(|(_, number)| number.ceil()).fold(1.0, f64::max);
    line("with one to spare", most_needed + 1.0, "");
}

fn busiest_hour(day: &Day, of: impl Fn(&Minute) -> f64) -> f64 {
    let minutes: Vec<f64> = day.minutes.iter().map(of).collect();
    minutes.windows(60).map(|hour| hour.iter().sum()).fold(0.0, f64::max)
}

/// Everything here grows with the number of people, so does what they need of a limit.
fn against(name: &str, needed: f64, limit: f64, users: u64) {
    line(name, needed, format!("of {}", spaced(limit as u64)));
    line("  the limit is reached at", users as f64 * limit / needed.max(1.0), "people");
}

fn line(name: &str, value: f64, unit: impl Display) {
    let value = if value < 100.0 && value.fract() > 0.0 {
        format!("{value:.2}")
    } else {
        spaced(value.round() as u64)
    };
    println!("  {name:<26} {value:>12} {unit}");
}

/// 1 000 000, to be read by people.
fn spaced(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(" ")
}

// === Chance ===

fn exponential(rng: &mut StdRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

fn normal(rng: &mut StdRng) -> f64 {
    (2.0 * exponential(rng)).sqrt() * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

fn poisson(rng: &mut StdRng, mean: f64) -> u32 {
    let (mut number, mut passed) = (0, exponential(rng));
    while passed < mean {
        passed += exponential(rng);
        number += 1;
    }
    number
}
