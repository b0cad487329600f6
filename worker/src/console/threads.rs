//! What the threads of a worker do, as a profile that `go tool pprof` and continuous profilers read.
//!
//! Format: <https://github.com/google/pprof/blob/main/proto/profile.proto>; of its fields only those
//! that a profile without addresses needs. A thread is a stack of three: what it is for, its name, and
//! what it waits in.

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use std::io::{self, Write};
use tasuki_shared::status::ThreadStatus;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

/// Gzipped, as profiles are sent. `unix_ms`: when the threads were looked at.
pub fn profile(threads: &[ThreadStatus], unix_ms: u64) -> io::Result<Vec<u8>> {
    let mut profile = Profile { string_table: vec![String::new()], ..Profile::default() };
    let count = profile.value_type("threads", "count");
    let cpu = profile.value_type("cpu", "nanoseconds");
    profile.sample_type = vec![count, cpu];
    profile.time_nanos = i64::try_from(unix_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    for thread in threads {
        let leaf = if thread.waits_in.is_empty() {
            format!("state {}", thread.state)
        } else {
            thread.waits_in.clone()
        };
        let location_id =
            [leaf, thread.name.clone(), thread.task.clone()].map(|frame| profile.frame(frame));
        let cpu_ns = i64::try_from(thread.cpu_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        profile.sample.push(Sample { location_id: location_id.into(), value: vec![1, cpu_ns] });
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&profile.encode_to_vec())?;
    packed.finish()
}

impl Profile {
    fn text(&mut self, text: String) -> i64 {
        let at = self.string_table.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.string_table.push(text);
            self.string_table.len() - 1
        });
        i64::try_from(at).unwrap_or(0)
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { kind: self.text(kind.to_owned()), unit: self.text(unit.to_owned()) }
    }

    /// The location of a function of this name.
    fn frame(&mut self, name: String) -> u64 {
        let name = self.text(name);
        if let Some(known) = self.function.iter().find(|function| function.name == name) {
            return known.id;
        }
        let id = u64::try_from(self.function.len()).unwrap_or(0) + 1;
        self.function.push(Function { id, name });
        self.location.push(Location { id, line: vec![Line { function_id: id }] });
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read;

    /// Each thread is one sample whose stack says what it is and where it waits.
    #[test]
    fn each_thread_is_a_stack_of_names() {
        let thread = |name: &str, waits_in: &str| ThreadStatus {
            name: name.to_owned(),
            state: "S".to_owned(),
            cpu_ms: 5,
            waits_in: waits_in.to_owned(),
            task: "work".to_owned(),
            ..ThreadStatus::default()
        };
        let packed = profile(&[thread("io", "ep_poll"), thread("dec", "")], 7).unwrap();
        let mut bytes = Vec::new();
        GzDecoder::new(&*packed).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(&*bytes).unwrap();
        assert_eq!(profile.time_nanos, 7_000_000);
        let name_of = |id: u64| {
            let line = &profile.location.iter().find(|it| it.id == id).unwrap().line[0];
            let function = profile.function.iter().find(|it| it.id == line.function_id).unwrap();
            profile.string_table[usize::try_from(function.name).unwrap()].as_str()
        };
        let stacks: Vec<Vec<&str>> = profile
            .sample
            .iter()
            .map(|sample| sample.location_id.iter().map(|id| name_of(*id)).collect())
            .collect();
        assert_eq!(stacks, [["ep_poll", "io", "work"], ["state S", "dec", "work"]]);
        assert_eq!(profile.sample[0].value, [1, 5_000_000]);
    }
}
