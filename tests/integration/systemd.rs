//! The unit under a real systemd: booted by systemd-nspawn on a volatile overlay of `/`, in a mount
//! namespace that ends with it.

use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tasuki_tests::child::{Child, installed};
use tasuki_tests::fixture::Recipe;
use tasuki_tests::place::{self, in_run_directory};

/// Of `systemd-analyze security`, ten times what it prints.
const EXPOSURE_MAX: &str = "--threshold=20";
const BOOT_BOUND: Duration = Duration::from_secs(150);
const CONFIG: &str = "[[apps.live.rungs]]\nlabel = \"source\"\nsource = true\n\n\
    [[apps.live.rungs]]\nheight = 72\nbitrate = \"150k\"\n";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").into()
}

#[test]
fn the_unit_is_accepted_and_exposes_little() {
    if !installed("systemd-analyze") {
        eprintln!("skipped: there is no systemd-analyze on this machine");
        return;
    }
    in_run_directory("unit", |run| {
        let unit = fs::read_to_string(top().join("systemd/tasuki.service"))?;
        let path = run.join("tasuki.service");
        let binary = place::binary("tasuki")?;
        fs::write(&path, unit.replace("/usr/bin/tasuki", &binary.display().to_string()))?;
        for arguments in [
            ["verify", "--recursive-errors=no"].as_slice(),
            ["security", "--offline=yes", EXPOSURE_MAX].as_slice(),
        ] {
            let output = Command::new("systemd-analyze").args(arguments).arg(&path).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{arguments:?}: {said}");
            ensure!(arguments[0] != "verify" || said.is_empty(), "{said}");
        }
        Ok(())
    });
}

/// READY, a live stream over a reload, our lines in the journal, a clean stop with nothing left.
#[test]
fn a_live_stream_outlives_a_reload_under_systemd() {
    let nspawn = std::env::var_os("TASUKI_NSPAWN").unwrap_or_else(|| "systemd-nspawn".into());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may boot a tree");
        return;
    }
    if !Path::new(&nspawn).is_absolute() && !installed("systemd-nspawn") {
        eprintln!("skipped: there is no systemd-nspawn on this machine");
        return;
    }
    in_run_directory("systemd", |run| {
        let (check, tree) = (run.join("check"), run.join("tree"));
        fs::create_dir(&check)?;
        fs::create_dir(&tree)?;
        fs::copy(Recipe::small(10).file()?, check.join("fixture"))?;
        fs::copy(top().join("tests/fixtures/systemd_check.sh"), check.join("run.sh"))?;
        fs::write(run.join("tasuki.toml"), CONFIG)?;
        fs::write(
            run.join("check.service"),
            "[Unit]\nAfter=basic.target\nRequires=basic.target\n[Service]\nType=oneshot\n\
             ExecStart=/bin/sh /check/run.sh\n",
        )?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh"]);
        command.arg(top().join("tests/fixtures/systemd_boot.sh")).arg(&tree).arg(&nspawn);
        command.args(["--quiet", "--register=no", "--keep-unit", "--private-network"]);
        command.arg(format!("--machine=tasuki-{}", std::process::id()));
        command.arg(format!("--bind={}:/check", check.display()));
        let unit = top().join("systemd/tasuki.service");
        for (from, to) in [
            (place::binary("tasuki")?, "/usr/bin/tasuki"),
            (place::binary("tasuki-worker")?, "/usr/bin/tasuki-worker"),
            (unit, "/etc/systemd/system/tasuki.service"),
            (top().join("systemd/tasuki.sysusers"), "/usr/lib/sysusers.d/tasuki.conf"),
            (run.join("tasuki.toml"), "/etc/tasuki/tasuki.toml"),
            (run.join("check.service"), "/etc/systemd/system/check.service"),
        ] {
            command.arg(format!("--bind-ro={}:{to}", from.display()));
        }
        command.args(["--console=pipe", "--boot", "--", "systemd.unit=check.service"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut machine = Child::start("machine", run.path(), &mut command)?;
        machine.wait(BOOT_BOUND)?;
        let read = |name: &str| {
            fs::read_to_string(check.join(name))
                .with_context(|| format!("{name}; the machine: {}", machine.log()))
        };
        let (said, journal) = (read("said")?, read("journal")?);
        ensure!(read("exit")?.trim() == "0", "{said}\n{journal}");
        let started = read("started")?;
        ensure!(started.contains("ActiveState=active\nSubState=running"), "{started}");
        let reloaded = read("reloaded")?;
        ensure!(reloaded.contains("ActiveState=active"), "{reloaded}");
        let session =
            |line: &str| line.split_whitespace().find(|w| w.contains('-')).map(str::to_owned);
        let (before, after) = (read("before")?, read("after")?);
        ensure!(session(&before) == session(&after), "{before}{after}");
        // What ffmpeg's RTMP says of a container that may lock no memory is no matter of ours.
        let publisher = read("publisher")?;
        let complaint = publisher.lines().find(|line| !line.contains("insecure memory"));
        ensure!(complaint.is_none(), "{publisher}");
        let stopped = read("stopped")?;
        ensure!(stopped.contains("Result=success"), "{stopped}");
        ensure!(stopped.contains("ActiveState=inactive"), "{stopped}");
        ensure!(stopped.contains("NRestarts=0"), "{stopped}");
        for line in ["\"listening\"", "the configuration is read again", "session_live"] {
            ensure!(journal.contains(line), "no {line} in the journal:\n{journal}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains(&run.path().display().to_string()), "a mount is left behind");
        Ok(())
    });
}
