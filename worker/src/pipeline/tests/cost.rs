//! What the pipeline costs beside the ffmpeg command. Run alone and on a quiet machine:
//! `cargo test -p tasuki-worker --lib -- --ignored --nocapture --test-threads 1 cost`.

use super::*;
use nix::sys::resource::{UsageWho, getrusage};

fn cpu_ms(who: UsageWho) -> i64 {
    let usage = getrusage(who).unwrap();
    let ms = |time: nix::sys::time::TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    ms(usage.user_time()) + ms(usage.system_time())
}

/// One 1080p source to 720, 480 and 360 lines, in alternating runs: three scales and three
/// sounds (the ordinary command), a cascade graph with one sound, and ours.
#[test]
#[ignore = "a measurement of a minute or two"]
fn cost_against_the_command() {
    let flv = ffmpeg(
        "-f lavfi -i testsrc2=size=1920x1080:rate=30:duration=10 \
         -f lavfi -i sine=frequency=440:sample_rate=44100:duration=10 \
         -vf noise=alls=12:allf=t -c:v libx264 -preset veryfast -b:v 5500k -maxrate 5500k \
         -bufsize 5500k -g 60 -bf 0 -c:a aac -ac 2 -f flv -",
        &[],
    );
    let directory = std::env::temp_dir().join(format!("tasuki-cost-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("source.flv");
    std::fs::write(&path, &flv).unwrap();
    let items = demux(&flv);
    let encode = |rate: u32| {
        format!(
            "-c:v libx264 -preset veryfast -tune zerolatency -threads 1 -crf 23 \
             -maxrate {rate}k -bufsize {rate}k -g 60 -c:a aac -ar 48000 -b:a 128k -f flv /dev/null"
        )
    };
    let input = format!("-y -threads 1 -i {}", path.display());
    let ordinary = format!(
        "{input} -map 0 -s 1280x720 {} -map 0 -s 854x480 {} -map 0 -s 640x360 {}",
        encode(3000),
        encode(1200),
        encode(700)
    );
    let silent = |rate| encode(rate).replace("-c:a aac -ar 48000 -b:a 128k", "-an");
    let cascade = format!(
        "{input} -filter_complex [0:v]scale=1280:720,split[a][x];[x]scale=854:480,split[b][y];\
         [y]scale=640:360[c] -map [a] -map 0:a {} -map [b] {} -map [c] {}",
        encode(3000),
        silent(1200),
        silent(700)
    );
    let rungs = vec![
        rung("720p", 720, 3_000_000),
        rung("480p", 480, 1_200_000),
        rung("360p", 360, 700_000),
    ];
    let audio = AudioPlan::Aac { bitrate_bps: 128_000, log: LOG };
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..5 {
        for (place, command) in [&ordinary, &cascade].into_iter().enumerate() {
            let before = cpu_ms(UsageWho::RUSAGE_CHILDREN);
            ffmpeg(command, &[]);
            figures[place].push(cpu_ms(UsageWho::RUSAGE_CHILDREN) - before);
        }
        let before = cpu_ms(UsageWho::RUSAGE_SELF);
        let outputs = run(PipelineSpec { rungs: rungs.clone(), audio, ..spec() }, &items);
        figures[2].push(cpu_ms(UsageWho::RUSAGE_SELF) - before);
        assert_eq!(frames(&outputs).len(), 300);
    }
    std::fs::remove_dir_all(&directory).unwrap();
    let median = |runs: &mut Vec<i64>| {
        runs.sort_unstable();
        runs[runs.len() / 2]
    };
    let [ordinary, cascade, ours] = figures.each_mut().map(median);
    println!("CPU ms: ordinary {ordinary}, cascade {cascade}, ours {ours}");
    println!("of ordinary {:.2}", ours as f64 / ordinary as f64);
    println!("of cascade {:.2}", ours as f64 / cascade as f64);
}
