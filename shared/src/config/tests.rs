use super::*;
use crate::codec::encode;
use crate::id::{Generation, RungId, SessionId};
use crate::message::{Envelope, PublishRequest, RefuseReason, ToWorker, Verdict};
use crate::plan::RungKind;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../../docs/tasuki.example.toml");
const MANUAL: &str = include_str!("../../../docs/CONFIG.md");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("t.toml"))
}

/// The error's text, for a configuration that must be refused.
fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn request(app: &str, key: &str) -> PublishRequest {
    PublishRequest {
        app: app.into(),
        key: StreamKey(key.into()),
        query: StreamKey(String::new()),
        flash_version: String::new(),
    }
}

/// The keys serde knows in a section, from what it says about one it does not know.
fn known_keys(probe: &str) -> Vec<String> {
    let said = refusal(probe);
    let (_, list) = said.split_once("(known here: ").expect(&said);
    list.trim_end_matches(')').split(", ").map(str::to_owned).collect()
}

/// The keys in the table under a heading of CONFIG.md.
fn documented_keys(heading: &str) -> Vec<String> {
    let (_, section) = MANUAL.split_once(&format!("\n## `{heading}`\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).collect()
}

#[test]
fn the_example_writes_out_exactly_the_embedded_defaults() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::embedded());
    assert_eq!(parse("").unwrap(), Config::embedded());
}

#[test]
fn the_example_with_its_commented_settings_switched_on_is_accepted() {
    let on: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') || setting.starts_with("  ") => setting,
            Some(_) | None => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = parse(&on).unwrap();
    assert_eq!(config.keys.len(), 2);
    assert_eq!(config.apps["live"].pushes.len(), 1);
    assert!(config.apps["live"].record.is_some());
    assert_eq!(config.apps["masked"].blur.len(), 2);
    assert_eq!(config.apps["masked"].blur[1].left, 250);
}

#[test]
fn every_key_is_in_the_manual_and_the_manual_has_no_other() {
    for (heading, probe) in [
        ("[rtmp]", "[rtmp]\nqqq = 1"),
        ("[status]", "[status]\nqqq = 1"),
        ("[workers]", "[workers]\nqqq = 1"),
        ("[memory]", "[memory]\nqqq = 1"),
        ("[chaos]", "[chaos]\nqqq = 1"),
        ("[log]", "[log]\nqqq = 1"),
        ("[delivery]", "[delivery]\nqqq = 1"),
        ("[console]", "[console]\nqqq = 1"),
        ("[apps.NAME]", "[apps.x]\nqqq = 1"),
        ("apps.NAME.blur", "[apps.x]\nblur = [{ qqq = 1 }]"),
        ("[[apps.NAME.rungs]]", "[[apps.x.rungs]]\nqqq = 1"),
        ("[[apps.NAME.push]]", "[[apps.x.push]]\nqqq = 1"),
        ("[apps.NAME.record]", "[apps.x.record]\nqqq = 1"),
        ("[apps.NAME.hls]", "[apps.x.hls]\nqqq = 1"),
        ("[apps.NAME.flv]", "[apps.x.flv]\nqqq = 1"),
        ("[apps.NAME.limits]", "[apps.x.limits]\nqqq = 1"),
    ] {
        assert_eq!(documented_keys(heading), known_keys(probe), "{heading}");
    }
    let sections = known_keys("qqq = 1");
    let known = [
        "rtmp", "status", "workers", "memory", "chaos", "log", "delivery", "console", "keys",
        "apps",
    ];
    assert_eq!(sections, known);
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_key() {
    let said = refusal("[rtmp]\n  lisen = []\n");
    assert!(said.starts_with("t.toml:2:3: unknown key 'lisen': did you mean 'listen'?"), "{said}");
    let said = refusal("[workers]\nstandby = 1\nstream_per_worker = 3");
    assert!(said.starts_with("t.toml:3:1: ") && said.contains("'streams_per_worker'"), "{said}");
    let said = refusal("[apps.live]\n[[apps.live.rungs]]\nheigth = 720");
    assert!(said.starts_with("t.toml:3:1: ") && said.contains("'height'"), "{said}");
    let said = refusal("[rtpm]\n");
    assert!(said.starts_with("t.toml:1:2: ") && said.contains("'rtmp'"), "{said}");
}

#[test]
fn every_other_fault_is_refused_with_its_place_and_the_way_out() {
    for (text, place, words) in [
        ("[rtmp]\nlisten = 5", "2:10", "found an integer"),
        ("[rtmp]\nlisten = []", "2:10", "1 to 16 addresses"),
        ("[rtmp]\nlisten = [\"localhost:1935\"]", "2:11", "no host names"),
        ("[rtmp]\nlisten = [\"[::1]:1\", \"[::1]:1\"]", "2:22", "listed twice"),
        ("[rtmp]\nlisten = [\"0.0.0.0:1935\"]", "2:10", "allow_open = true"),
        ("[rtmp]\nsilence_timeout = 30", "2:19", "\"30s\""),
        ("[rtmp]\nsilence_timeout = \"2d\"", "2:19", "1s to 1h"),
        ("[memory]\nsoft = \"2GiB\"\nhard = \"1GiB\"", "3:8", "more than soft"),
        ("[memory]\nsoft = \"200%\"", "2:8", "100%"),
        ("[memory]\nrecycle = \"maybe\"", "2:11", "on"),
        ("[chaos]\nleak = 0", "2:8", "out of range"),
        ("[rtmp]\nsame_name = \"takeover\"", "2:13", "'take_over'"),
        ("[status]\nsocket = \"status.sock\"", "2:10", "absolute"),
        ("[rtmp]\nlisten = [\"0.0.0.0:1\", \"127.0.0.1:1\"]", "2:24", "overlap"),
        ("[rtmp]\nlisten = [\"[::1]:1\", \"[::]:1\"]", "2:22", "overlap"),
        ("[status]\nmode = \"0999\"", "2:8", "0660"),
        ("[status]\nmode = \"0666\"", "2:8", "0600"),
        ("[workers]\ncount = 0", "2:9", "\"auto\" or 1 to 64"),
        ("[workers]\ncount = \"many\"", "2:9", "\"auto\" or a whole number"),
        ("[workers]\nstandby = 99", "2:11", "0 to 8"),
        ("[workers]\nstandby = -1", "2:11", ""),
        ("[workers]\nspare_codecs = 1", "2:16", "boolean"),
        ("[workers]\ncpu_limit = \"5%\"", "2:13", "10%"),
        ("[workers]\nrestart_backoff_first = \"9s\"\nrestart_backoff_max = \"1s\"", "3:23", "less"),
        ("[log]\nlevel = \"inf\"", "2:9", "'info'"),
        ("[apps.\"a/b\"]", "1:7", "application name"),
        ("[apps.a]\naudio_bitrate = \"96k\"", "2:17", "audio = \"aac\""),
        ("[apps.a]\naudio = \"aac\"\naudio_bitrate = \"9M\"", "3:17", "32k to 320k"),
        ("[apps.a]\nrungs = []", "2:9", "leave rungs out"),
        ("[apps.a]\nrungs = [{ height = 720 }]", "2:10", "needs a bitrate"),
        ("[apps.a]\nrungs = [{ label = \"x\" }]", "2:10", "source = true, or height"),
        ("[apps.a]\nrungs = [{ height = 721, bitrate = 600000 }]", "2:21", "even"),
        ("[apps.a]\nrungs = [{ source = true, crf = 20 }]", "2:33", "not encoded"),
        ("[apps.a]\nrungs = [{ source = true }, { source = true, label = \"b\" }]", "2:29", "once"),
        (
            "[apps.a]\nrungs = [{ height = 72, bitrate = \"60k\", preset = \"veryfst\" }]",
            "2:51",
            "'veryfast'",
        ),
        ("[apps.a]\nrungs = [{ height = 72, bitrate = \"60k\", crf = 0 }]", "2:48", "1 to 51"),
        ("[[apps.a.push]]\nurl = \"rtmps://h/a/{rung}\"", "2:7", "rtmp://"),
        ("[[apps.a.push]]\nurl = \"rtmp://h/a/s\"", "2:7", "{rung}"),
        (
            "[[apps.a.push]]\nurl = \"rtmp://h/a/{rung}\"\nrungs = [\"720\"]",
            "3:10",
            "did you mean '720p'",
        ),
        ("[[apps.a.push]]\nrungs = [\"720p\"]", "1:1", "'url' is missing"),
        ("[apps.a.record]\ndirectory = \"rec\"", "2:13", "absolute"),
        ("[apps.a.limits]\nbitrate = \"100M\"\ngop = \"30s\"", "3:7", "64MiB"),
        ("[apps.a]\nblur = [{ left = 90, top = 0, width = 11, height = 5 }]", "2:9", "within"),
        ("[apps.a]\nblur = [{ left = 0, top = 0, width = 11 }]", "2:9", "'height' is missing"),
        ("[log]\nlevel = \"info\"\nlevel = \"info\"", "3:1", "duplicate key"),
        ("[log\n", "1:5", ""),
    ] {
        let said = refusal(text);
        assert!(said.starts_with(&format!("t.toml:{place}: ")), "{text}\n{said}");
        assert!(said.contains(words), "{text}\n{said}");
    }
}

#[test]
fn a_push_into_this_very_server_is_refused_at_its_place_and_one_elsewhere_is_not() {
    let config = |listen: &str, url: &str| {
        format!(
            "[rtmp]\nlisten = [\"{listen}\"]\nallow_open = true\n[apps.live]\n[apps.b]\n\
             [[apps.b.push]]\nurl = \"{url}/{{name}}_{{rung}}\"\n"
        )
    };
    for (listen, url) in [
        ("127.0.0.1:1935", "rtmp://127.0.0.1/live"),
        ("127.0.0.1:1935", "rtmp://localhost/{app}"),
        ("0.0.0.0:1936", "rtmp://127.0.0.1:1936/b"),
        ("[::]:1935", "rtmp://[::1]/live"),
        ("192.0.2.1:1935", "rtmp://192.0.2.1/live"),
    ] {
        let said = refusal(&config(listen, url));
        assert!(said.starts_with("t.toml:7:7: ") && said.contains("a loop"), "{url}\n{said}");
    }
    for (listen, url) in [
        ("127.0.0.1:1935", "rtmp://127.0.0.1:1936/live"),
        ("127.0.0.1:1935", "rtmp://127.0.0.1/vod"),
        ("192.0.2.1:1935", "rtmp://192.0.2.2/live"),
        ("127.0.0.1:0", "rtmp://127.0.0.1/live"),
    ] {
        assert!(parse(&config(listen, url)).is_ok(), "{url}");
    }
}

#[test]
fn two_applications_that_push_to_the_same_place_are_warned_of() {
    let text = |url: &str| {
        format!(
            "[[apps.a.push]]\nurl = \"rtmp://o/x/{url}\"\n[[apps.b.push]]\n\
             url = \"rtmp://o/x/{url}\"\n"
        )
    };
    let warnings = parse(&text("{name}_{rung}")).unwrap().warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("apps 'a' and 'b'"), "{warnings:?}");
    assert!(parse(&text("{app}_{name}_{rung}")).unwrap().warnings().is_empty());
}

#[test]
fn a_stream_key_never_appears_in_an_error_or_in_debug_output() {
    // Each text has the secret in another wrong place.
    let long = format!("[keys]\n\"hunter2{}\" = \"cam\"", "x".repeat(300));
    for text in [
        "[keys]\nhunter2 = 5",
        "[keys]\nhunter2 = \"a b\"",
        "[keys]\ncam = \"hunter2 \"",
        "[keys]\nhunter2 = \"cam\"\nhunter2-b = \"cam\"",
        "[keys]\nhunter2 = \"cam\"\nhunter2 = \"cam\"",
        "[keys]\nhunter2.x = \"cam\"",
        "[keys]\nhunter2 = \"cam",
        "[keys]\n\"\" = \"hunter2\"",
        "keys = \"hunter2\"",
        "keys = [\"hunter2\"]",
        "[log]\nhunter2 = \"cam\"",
        "hunter2 = \"cam\"",
        "[[apps.a.push]]\nurl = \"rtmp://h/hunter2\"",
        "[[apps.a.push]]\nurl = \"rtmp://h/a/hunter2\"",
        &long,
    ] {
        let error = parse(text).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}\n{error}");
    }
    let config = parse("[keys]\nhunter2 = \"cam\"").unwrap();
    assert!(!format!("{config:?} {}", config.describe(Machine::default())).contains("hunter2"));
}

#[test]
fn a_pass_through_rung_beside_blur_is_refused_by_name_unless_it_says_unblurred() {
    let blur = "[apps.a]\nblur = [{ left = 0, top = 0, width = 50, height = 50 }]\n";
    let said = refusal(blur);
    assert!(said.starts_with("t.toml:2:8: app 'a': rung 'source' passes"), "{said}");
    let said = refusal(&format!("{blur}[[apps.a.rungs]]\nlabel = \"raw\"\nsource = true"));
    assert!(said.starts_with("t.toml:3:1: app 'a': rung 'raw' passes"), "{said}");
    let open = format!("{blur}[[apps.a.rungs]]\nsource = true\nunblurred = true");
    assert!(parse(&open).is_ok());
    assert!(parse(&format!("{blur}[[apps.a.rungs]]\nheight = 360\nbitrate = \"600k\"")).is_ok());
}

#[test]
fn listening_beyond_loopback_needs_keys_or_an_explicit_line_that_warns() {
    let wide = "[rtmp]\nlisten = [\"[::]:1935\"]\n";
    assert!(refusal(wide).contains("[::]:1935 is reachable from outside"));
    let keys = parse(&format!("{wide}[keys]\nsecret = \"cam\"")).unwrap();
    assert_eq!(keys.rtmp.authorisation, Authorisation::Keys);
    assert!(keys.warnings().is_empty());
    let open = parse(&format!("{wide}allow_open = true")).unwrap();
    assert_eq!(open.rtmp.authorisation, Authorisation::Open);
    assert_eq!(open.warnings().len(), 1);
    assert_eq!(Config::embedded().rtmp.authorisation, Authorisation::LoopbackOnly);
}

#[test]
fn without_keys_the_key_is_the_name_and_must_be_a_legal_one() {
    let config = Config::embedded();
    assert_eq!(config.authorize(&request("live", "cam")).unwrap().name.as_str(), "cam");
    assert_eq!(config.authorize(&request("live", "a/b")), Err(RefuseReason::BadName));
    assert_eq!(config.authorize(&request("vod", "cam")), Err(RefuseReason::UnknownApp));
}

#[test]
fn with_keys_only_a_key_publishes_and_only_under_its_public_name() {
    let config = parse("[keys]\nsecret = \"cam\"\n\"with space\" = \"b\"").unwrap();
    assert_eq!(config.authorize(&request("live", "secret")).unwrap().name.as_str(), "cam");
    assert_eq!(config.authorize(&request("live", "with space")).unwrap().name.as_str(), "b");
    for wrong in ["cam", "", "Secret", &"x".repeat(10_000)] {
        assert_eq!(config.authorize(&request("live", wrong)), Err(RefuseReason::BadKey));
    }
}

#[test]
fn the_default_plan_is_the_documented_ladder_with_logs_sized_by_bitrate() {
    let plan = Config::embedded().authorize(&request("live", "cam")).unwrap();
    let labels: Vec<_> = plan.rungs.iter().map(|rung| rung.label.as_str()).collect();
    assert_eq!(labels, ["source", "720p", "480p", "360p"]);
    assert_eq!(plan.source_log.payload_bytes, 8 << 20);
    let sizes: Vec<_> = plan.logs().iter().map(|(_, size)| size.payload_bytes).collect();
    assert_eq!(sizes, [8 << 20, 4 << 20, 2 << 20, 1 << 20]);
    for (_, size) in plan.logs() {
        assert!(size.payload_bytes.is_power_of_two() && size.index_entries.is_power_of_two());
    }
    assert!(plan.pushes.is_empty() && plan.record.is_none() && plan.blur.is_empty());
}

#[test]
fn pushes_are_one_per_rung_with_their_placeholders_replaced() {
    let config = parse(
        "[[apps.live.push]]\nurl = \"rtmp://o:1/{app}/{name}_{rung}?k=s\"\n\
         rungs = [\"360p\", \"source\"]",
    );
    let plan = config.unwrap().authorize(&request("live", "cam")).unwrap();
    let streams: Vec<_> =
        plan.pushes.iter().map(|push| (push.rung, push.stream.as_str())).collect();
    assert_eq!(streams, [(RungId(0), "cam_source?k=s"), (RungId(3), "cam_360p?k=s")]);
    assert_eq!((plan.pushes[0].host.as_str(), plan.pushes[0].port), ("o", 1));
    assert_eq!(plan.pushes[0].app, "live");
}

#[test]
fn a_ladder_is_sorted_highest_first_and_refers_to_its_rungs_by_that_order() {
    let config = parse(
        "[apps.a]\nrungs = [{ height = 72, bitrate = \"60k\" }, { source = true }, \
         { height = 480, bitrate = \"1M\" }]\n\
         [apps.a.record]\ndirectory = \"/r\"\nrungs = [\"72p\"]",
    )
    .unwrap();
    let app = &config.apps["a"];
    let labels: Vec<_> = app.rungs.iter().map(|rung| rung.label.as_str()).collect();
    assert_eq!(labels, ["source", "480p", "72p"]);
    assert_eq!(app.record.as_ref().unwrap().rungs, [RungId(2)]);
    assert!(matches!(app.rungs[0].kind, RungKind::Source));
    assert_eq!(config.apps.len(), 1, "a file with applications serves exactly those");
}

#[test]
fn the_largest_plan_a_configuration_can_make_fits_one_control_frame() {
    let label = |n: usize| format!("{n}{}", "l".repeat(63));
    let mut text = format!("[apps.{}]\nblur = [\n", "a".repeat(64));
    for _ in 0..16 {
        text += "{ left = 50, top = 50, width = 50, height = 50 },\n";
    }
    text += "]\nrungs = [\n";
    for n in 0..6 {
        let label = label(n);
        text += &format!("{{ label = \"{label}\", height = 4320, bitrate = \"100M\" }},\n");
    }
    text += "]\n";
    let app = "a".repeat(64);
    for n in 0..16 {
        let host = "h".repeat(253);
        let part = "{name}".repeat(8);
        let label = label(n % 6);
        text += &format!("[[apps.{app}.push]]\nurl = \"rtmp://{host}/{part}/{part}\"\n");
        text += &format!("rungs = [\"{label}\"]\n");
    }
    text += &format!("[apps.{app}.record]\ndirectory = \"/{}\"\n", "d".repeat(1000));
    let name = PublicName::parse(&"n".repeat(128)).unwrap();
    let plan = parse(&text).unwrap().plan(&app, name).unwrap();
    let session = SessionId { epoch: u32::MAX, counter: u64::MAX };
    let body = ToWorker::Verdict { session, verdict: Verdict::Allow(Box::new(plan)) };
    let frame = encode(&Envelope { generation: Generation(u32::MAX), body }).unwrap();
    assert!(frame.len() < crate::limits::CONTROL_FRAME_BYTES_MAX);
}

#[test]
fn a_description_says_what_the_defaults_come_to() {
    let description = Config::embedded().describe(Machine { cores: 4, memory_bytes: 10 << 30 });
    assert_eq!((description.workers, description.streams_max), (4, 32));
    assert_eq!(description.apps[0].logs_bytes, 15 << 20);
    let text = description.to_string();
    for words in
        ["127.0.0.1:1935, [::1]:1935", "720p", "2.5M", "15MiB of logs per stream", "above 1GiB of"]
    {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let said = Config::load(Path::new("/nonexistent/t.toml")).unwrap_err().to_string();
    assert!(said.starts_with("cannot read /nonexistent/t.toml: "), "{said}");
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        let _ = parse(&text);
    }

    /// Text near the grammar gets farther in than noise does.
    #[test]
    fn the_example_with_a_piece_replaced_never_panics(
        at in 0..EXAMPLE.len(),
        length in 0_usize..40,
        piece in "[\\PC\n]{0,12}",
    ) {
        let on = EXAMPLE.replace("\n#", "\n");
        let start = (0..=at.min(on.len())).rev().find(|at| on.is_char_boundary(*at)).unwrap_or(0);
        let end = (start + length).min(on.len());
        let end = (end..=on.len()).find(|at| on.is_char_boundary(*at)).unwrap_or(on.len());
        let _ = parse(&format!("{}{piece}{}", &on[..start], &on[end..]));
    }
}

/// What viewers are served from follows from the file, and impossible wishes are refused by name.
#[test]
fn delivery_and_hls_are_checked() {
    let config = parse(
        "[delivery]\nlisten = [\"127.0.0.1:0\"]\nhls_directory = \"/run/x\"\n[apps.live.hls]\n\
         rungs = [\"720p\"]\ntarget_duration = \"6s\"",
    )
    .unwrap();
    let name = crate::id::PublicName::parse("cam").unwrap();
    let hls = config.plan("live", name).unwrap().hls.unwrap();
    assert_eq!(hls.directory, Path::new("/run/x/live/cam"));
    assert_eq!((hls.target_ms, hls.window_ms, hls.rungs.len()), (6000, 60_000, 1));
    let of_one = |text: &str| parse(text).unwrap().delivery.connections_per_address_max;
    assert_eq!(of_one("[delivery]\nconnections_per_address_max = 0"), 0);
    assert_eq!(of_one(""), 256);
    let silent = parse("[apps.live]\naudio = \"copy\"").unwrap();
    assert_eq!(silent.apps["live"].hls, None);
    for (text, expected) in [
        ("[delivery]\ncertificate = \"/a.pem\"", "TLS needs both"),
        ("[delivery]\nallow_origin = \"example\"", "allow_origin is"),
        ("[delivery]\nhls_directory = \"x\"", "must be an absolute path"),
        ("[delivery]\nconnections_per_address_max = 1000001", "0 to 1000000"),
        ("[apps.live.hls]\nrungs = [\"1p\"]", "no rung has this label"),
        ("[apps.live.hls]\ntarget_duration = \"3500ms\"", "in whole seconds"),
        ("[apps.live.hls]\ntarget_duration = \"2s\"", "3s to 10s"),
        ("[apps.live.hls]\nwindow = \"20s\"", "it may be 32s to 1h"),
    ] {
        let said = refusal(text);
        assert!(said.contains(expected), "{said}");
    }
}

/// What is packaged can be had as FLV, unless the file says otherwise; and FLV alone is possible.
#[test]
fn flv_follows_hls_until_it_is_said_otherwise() {
    let flv = |text: &str| {
        let config = parse(text).unwrap();
        assert_eq!(config.has_viewers(), text.contains("flv") || text.contains("hls"));
        let rungs = config.apps["live"].flv.clone();
        rungs.map(|rungs| rungs.into_iter().map(|RungId(rung)| rung).collect::<Vec<_>>())
    };
    assert_eq!(flv("[apps.live]"), None);
    assert_eq!(flv("[apps.live.hls]\nrungs = [\"720p\"]"), Some(vec![1]));
    assert_eq!(flv("[apps.live.hls]\n[apps.live.flv]\nrungs = [\"source\"]"), Some(vec![0]));
    assert_eq!(flv("[apps.live.hls]\n[apps.live.flv]\noffer = false"), None);
    assert_eq!(flv("[apps.live.flv]"), Some(vec![0, 1, 2, 3]));
    assert!(refusal("[apps.live.flv]\nrungs = [\"1p\"]").contains("no rung has this label"));
}

/// Whoever reaches the console can end every stream: wider than loopback only with a token.
#[test]
fn the_console_is_for_this_machine_until_there_is_a_token() {
    assert_eq!(parse("[apps.live]").unwrap().console.listen.len(), 2);
    assert!(parse("[console]\nlisten = []").unwrap().console.listen.is_empty());
    let wide = "[console]\nlisten = [\"0.0.0.0:8936\"]\n";
    assert!(refusal(wide).contains("set token_file"));
    let with_token = format!("{wide}token_file = \"/etc/tasuki/token\"");
    assert_eq!(parse(&with_token).unwrap().console.listen.len(), 1);
    assert!(refusal("[console]\ntoken_file = \"token\"").contains("token_file"));
}

/// What a reload changes of delivery waits for a restart, and streams go on to where it looks.
#[test]
fn a_reload_keeps_the_viewers_where_they_are() {
    let running = parse("[delivery]\nhls_directory = \"/run/x\"\n[apps.live.hls]").unwrap();
    let changed = "[delivery]\nhls_directory = \"/run/y\"\n[apps.live.hls]\n[apps.more.hls]";
    let mut new = parse(changed).unwrap();
    new.keep_viewers_of(&running);
    assert_eq!(new.hls_root(), Path::new("/run/x"));
    assert!(new.apps["more"].hls.is_some());
    let mut new = parse(changed).unwrap();
    new.keep_viewers_of(&parse("[apps.live]").unwrap());
    assert!(!new.has_viewers());
}
