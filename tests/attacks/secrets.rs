//! Secrets from outside: what the machine shows of the process, and what is left of it when it dies.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::rig::Rig;
use crate::support::program::Surroundings;
use crate::support::proxy::{Setup, Tokens};

// SE-07: neither the limit nor the kernel's own switch lets a core out, and nobody else reads its memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_memory_behind() {
    for (signal, number) in [("SEGV", 11), ("ABRT", 6), ("QUIT", 3)] {
        let first = "ulimit -c unlimited || true; \
                     [ $(id -u) = 0 ] && exec setpriv --regid 65534 --clear-groups \"$0\" \"$@\"";
        let surroundings = Surroundings { first: first.to_owned(), ..Surroundings::default() };
        let mut rig = Rig::with(Setup { surroundings, ..Setup::default() }).await;
        rig.login().await;
        let pid = rig.program.pid().to_string();
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("there");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        // What is not dumpable belongs to root, whoever runs it; the test looks at the group, for root runs it too.
        let shown = |name: &str| std::fs::metadata(format!("/proc/{pid}/{name}")).expect("it runs");
        for name in ["environ", "mem", "maps"] {
            assert_eq!((shown(name).uid(), shown(name).gid()), (0, 0), "{name}");
        }
        // Where root has its full power, the limit can be lifted again from outside; there is no core all the same.
        let _ = Command::new("prlimit").args(["--pid", &pid, "--core=unlimited"]).output();
        // Rust looks at the first SIGSEGV for stack overflows, and takes only a second one as it is.
        for _ in 0..100 {
            if !rig.program.is_running() {
                break;
            }
            let _ = Command::new("kill").args([&format!("-{signal}"), &pid]).output();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!rig.program.is_running(), "{signal} ends it");
        let ended = rig.program.wait();
        assert_eq!(ended.signal(), Some(number), "{}", rig.program.said());
        assert!(!ended.core_dumped(), "{signal} left a core");
        for entry in std::fs::read_dir(rig.dir.path()).expect("a folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            assert!(name.starts_with("proxy."), "{signal} left {name}");
        }
    }
}

// SE-10: a new key in front goes unnoticed; a key that was dropped takes its logins along, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_under_running_logins() {
    let mut rig = Rig::start().await;
    let old = STANDARD.encode(b"canary-key-0123456789abcdefghijk");
    let new = STANDARD.encode(b"another-key-0123456789abcdefghij");
    rig.canary("the new key", &new);
    let file = rig.dir.path().join("proxy.yaml");
    let yaml = std::fs::read_to_string(&file).expect("text");
    let with =
        |keys: String| std::fs::write(&file, yaml.replace(&format!("'{old}'"), &keys)).expect("writes");
    let (idle, busy) = (rig.login().await, rig.login().await);
    with(format!("'{new}', '{old}'"));
    rig.kill_and_start_again();
    for tokens in [&idle, &busy] {
        rig.proxy.ping(&tokens.access).await.expect(200);
    }
    let next = rig.proxy.refresh(&busy.client_id, &busy.refresh).await.expect(200).json();
    let next = Tokens::read(busy.client_id.clone(), next);
    rig.canary("a refresh token", &next.refresh);
    rig.proxy.ping(&next.access).await.expect(200);
    with(format!("'{new}'"));
    rig.kill_and_start_again();
    for tokens in [&idle, &busy] {
        rig.proxy.ping(&tokens.access).await.expect(401);
        let refused = rig.proxy.refresh(&tokens.client_id, &tokens.refresh).await;
        assert!(["invalid_grant", "invalid_client"].contains(&refused.error().as_str()), "{refused:?}");
    }
    let again = rig.login().await;
    rig.proxy.ping(&again.access).await.expect(200);
    rig.verify().await;
}
