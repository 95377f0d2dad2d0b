//! `/_standin/…`: what shell scripts and other processes do with [`World`]. Never shows a token.

use serde_json::{Map, Value, json};

use super::{
    call::{Call, Endpoint},
    fault::Fault,
    options::Approval,
    reply::{self, Reply},
    user::User,
    world::World,
};

/// `POST /_standin/<verb>?<parameters>`, and `GET /_standin/counters`.
pub fn answer(world: &mut World, call: &Call) -> Reply {
    if !world.options.control {
        return reply::message(404, "Not Found");
    }
    match (call.method.as_str(), call.segments().as_slice()) {
        ("GET", ["_standin", "counters"]) => reply::json(200, &counters(world)),
        ("POST", ["_standin", verb]) => match obey(world, call, verb) {
            Some(()) => reply::empty(204),
            None => reply::message(400, "Unknown verb, parameter or user"),
        },
        _ => reply::message(404, "Not Found"),
    }
}

fn obey(world: &mut World, call: &Call, verb: &str) -> Option<()> {
    let number = |name| call.param(name)?.parse().ok();
    match verb {
        "sign-in" => world.sign_in(&login(world, call)?),
        "sign-out" => world.sign_out(),
        "approval" => world.set_approval(approval(call.param("mode")?)?),
        "user" => world.add_user(serde_json::from_slice::<User>(&call.body).ok()?),
        "revoke" => world.revoke_all(&login(world, call)?),
        "forward" => world.forward(number("seconds")?),
        "spurious-401" => world.spurious_401(u32::try_from(number("calls")?).ok()?),
        "fault" => {
            let (endpoint, fault) = (endpoint(call.param("endpoint")?)?, fault(call.param("fault")?)?);
            match call.param("times") {
                Some(times) => world.fail_times(endpoint, fault, times.parse().ok()?),
                None => world.fail(endpoint, fault),
            }
        }
        "heal" => world.heal(),
        "clear" => world.clear_calls(),
        _ => return None,
    }
    Some(())
}

fn login(world: &World, call: &Call) -> Option<String> {
    Some(world.user(call.param("login")?)?.login.clone())
}

pub fn approval(mode: &str) -> Option<Approval> {
    match mode {
        "automatic" => Some(Approval::Automatic),
        "remembered" => Some(Approval::Remembered),
        "denied" => Some(Approval::Denied),
        _ => None,
    }
}

fn endpoint(name: &str) -> Option<Endpoint> {
    Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == name)
}

fn fault(name: &str) -> Option<Fault> {
    Some(match name {
        "bad-gateway" => Fault::BadGateway,
        "dropped" => Fault::Dropped,
        "answer-lost" => Fault::AnswerLost,
        "silent" => Fault::Silent,
        "rate-limited" => Fault::RateLimited { status: 429, retry_after: Some(60), reset: None },
        "form-encoded" => Fault::FormEncoded,
        "garbage" => Fault::Garbage,
        "truncated" => Fault::Truncated,
        "broken-off" => Fault::BrokenOff,
        "no-access-token" => Fault::NoAccessToken,
        _ => match name.split_once(':')? {
            ("status", status) => Fault::Status(status.parse().ok().filter(|s| (200..600).contains(s))?),
            ("oauth", error) => Fault::OAuthError(error.to_owned()),
            ("huge", bytes) => Fault::Huge(bytes.parse().ok()?),
            _ => return None,
        },
    })
}

fn counters(world: &World) -> Value {
    let counted = Endpoint::ALL.map(|endpoint| (endpoint.name(), json!(world.count(endpoint))));
    let live = |user: &User| (user.login.clone(), json!(world.live_tokens(&user.login).len()));
    let live_tokens: Map<String, Value> = world.users().iter().map(live).collect();
    json!({
        "calls": counted.into_iter().collect::<Map<String, Value>>(),
        "live_tokens": live_tokens,
    })
}
