//! Quantities as people write them: "256MiB", "30s", "2.5M", "12.5%". Arithmetic is in integers,
//! so a written value is never off by a rounding error.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// A duration in milliseconds, always written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub u64);

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bitrate(pub u64);

/// Hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub u64);

/// `"auto"` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AutoOr {
    Auto,
    Fixed(u64),
}

/// A part of the machine's memory: `"auto"`, a size, or hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeOrShare {
    Auto,
    Size(u64),
    Share(u64),
}

/// As above, or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    Off,
    Least(SizeOrShare),
}

impl Time {
    pub(super) const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

trait Quantity: Sized {
    const EXPECTED: &'static str;
    fn from_text(text: &str) -> Option<Self>;
    fn from_integer(value: u64) -> Option<Self>;
    fn from_float(value: f64) -> Option<Self>;
}

impl Quantity for Time {
    const EXPECTED: &'static str = r#"a duration such as "500ms", "30s", "5m", "2h" or "7d""#;

    fn from_text(text: &str) -> Option<Self> {
        const UNITS: &[(&str, u64)] =
            &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        scaled(text, UNITS).map(Self)
    }

    fn from_integer(_: u64) -> Option<Self> {
        None
    }

    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

impl Quantity for Size {
    const EXPECTED: &'static str = r#"a size such as "256MiB", "1.5GiB", "500MB" or bytes"#;

    fn from_text(text: &str) -> Option<Self> {
        const UNITS: &[(&str, u64)] = &[
            ("B", 1),
            ("", 1),
            ("kB", 1000),
            ("KB", 1000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
        ];
        scaled(text, UNITS).map(Self)
    }

    fn from_integer(value: u64) -> Option<Self> {
        Some(Self(value))
    }

    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

impl Quantity for Bitrate {
    const EXPECTED: &'static str = r#"a bitrate such as "2.5M", "600k" or bits per second"#;

    fn from_text(text: &str) -> Option<Self> {
        const UNITS: &[(&str, u64)] = &[("", 1), ("k", 1000), ("K", 1000), ("M", 1_000_000)];
        scaled(text, UNITS).map(Self)
    }

    fn from_integer(value: u64) -> Option<Self> {
        Some(Self(value))
    }

    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

impl Quantity for Percent {
    const EXPECTED: &'static str = r#"a percentage such as "90%", 90 or 12.5"#;

    fn from_text(text: &str) -> Option<Self> {
        scaled(text, &[("%", 100)]).map(Self)
    }

    fn from_integer(value: u64) -> Option<Self> {
        value.checked_mul(100).map(Self)
    }

    fn from_float(value: f64) -> Option<Self> {
        // `Display` of a float is its shortest exact decimal form: no cast, no rounding.
        scaled(&value.to_string(), &[("", 100)]).map(Self)
    }
}

impl Quantity for AutoOr {
    const EXPECTED: &'static str = r#""auto" or a whole number"#;

    fn from_text(text: &str) -> Option<Self> {
        (text == "auto").then_some(Self::Auto)
    }

    fn from_integer(value: u64) -> Option<Self> {
        Some(Self::Fixed(value))
    }

    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

impl Quantity for SizeOrShare {
    const EXPECTED: &'static str = r#""auto", a size such as "256MiB" or a share such as "12.5%""#;

    fn from_text(text: &str) -> Option<Self> {
        if text == "auto" {
            return Some(Self::Auto);
        }
        Percent::from_text(text)
            .map(|Percent(hundredths)| Self::Share(hundredths))
            .or_else(|| Size::from_text(text).map(|Size(bytes)| Self::Size(bytes)))
    }

    fn from_integer(value: u64) -> Option<Self> {
        Some(Self::Size(value))
    }

    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

impl Quantity for Pressure {
    const EXPECTED: &'static str =
        r#""auto", "off", a size such as "256MiB" or a share such as "12.5%""#;

    fn from_text(text: &str) -> Option<Self> {
        if text == "off" { Some(Self::Off) } else { SizeOrShare::from_text(text).map(Self::Least) }
    }

    fn from_integer(value: u64) -> Option<Self> {
        SizeOrShare::from_integer(value).map(Self::Least)
    }

    fn from_float(_: f64) -> Option<Self> {
        None
    }
}

/// A decimal number with one of `units` behind it, times that unit; what is finer than 1 is cut.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let suffix = suffix.trim_start();
    let unit = units.iter().find(|(name, _)| *name == suffix)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u128 = fraction.parse().ok()?;
    let unit = u128::from(unit);
    u64::try_from(whole * unit + fraction * unit / divisor).ok()
}

struct QuantityVisitor<Q>(PhantomData<Q>);

impl<Q: Quantity> Visitor<'_> for QuantityVisitor<Q> {
    type Value = Q;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Q::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Q, E> {
        Q::from_text(text).ok_or_else(|| E::custom(format_args!("expected {}", Q::EXPECTED)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Q, E> {
        u64::try_from(value)
            .ok()
            .and_then(Q::from_integer)
            .ok_or_else(|| E::custom(format_args!("expected {}", Q::EXPECTED)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Q, E> {
        Q::from_float(value).ok_or_else(|| E::custom(format_args!("expected {}", Q::EXPECTED)))
    }
}

macro_rules! deserialize_quantity {
    ($($quantity:ty),*) => {$(
        impl<'de> Deserialize<'de> for $quantity {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(QuantityVisitor(PhantomData))
            }
        }
    )*};
}

deserialize_quantity!(Time, Size, Bitrate, Percent, AutoOr, SizeOrShare, Pressure);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_mean_what_they_say() {
        assert_eq!(Time::from_text("30s"), Some(Time(30_000)));
        assert_eq!(Time::from_text("1.5h"), Some(Time(5_400_000)));
        assert_eq!(Time::from_text("500 ms"), Some(Time(500)));
        assert_eq!(Size::from_text("256MiB"), Some(Size(256 << 20)));
        assert_eq!(Size::from_text("500MB"), Some(Size(500_000_000)));
        assert_eq!(Bitrate::from_text("2.5M"), Some(Bitrate(2_500_000)));
        assert_eq!(Bitrate::from_text("600k"), Some(Bitrate(600_000)));
        assert_eq!(Percent::from_text("12.5%"), Some(Percent(1250)));
        assert_eq!(Percent::from_float(33.33), Some(Percent(3333)));
        assert_eq!(SizeOrShare::from_text("12.5%"), Some(SizeOrShare::Share(1250)));
        assert_eq!(SizeOrShare::from_text("1MiB"), Some(SizeOrShare::Size(1 << 20)));
        assert_eq!(Pressure::from_text("off"), Some(Pressure::Off));
    }

    #[test]
    fn a_quantity_without_a_clear_meaning_is_refused() {
        for bad in ["", "s", "30", "-1s", ".5s", "5.s", "1e3s", "30 parsecs", "٣s"] {
            assert_eq!(Time::from_text(bad), None, "{bad:?}");
        }
        assert_eq!(Size::from_text("1mib"), None);
        assert_eq!(Bitrate::from_text("99999999999999999M"), None, "more than 64 bits");
        assert_eq!(Percent::from_float(f64::NAN), None);
        assert_eq!(Percent::from_float(-1.0), None);
        assert_eq!(Percent::from_float(1e300), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let _ = Time::from_text(&text);
            let _ = Size::from_text(&text);
            let _ = Bitrate::from_text(&text);
            let _ = Percent::from_text(&text);
        }
    }
}
