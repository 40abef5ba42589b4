//! Amounts of memory and processors, as people write them.

/// A limit's size; 0 stands for none.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn size_limit(text: &str) -> Result<Option<i64>, String> {
    bytes(text).map(|size| Some(size).filter(|size| *size > 0))
}

/// `512m`, `1gb`, `1 GiB`, `1048576`: bytes, in powers of 1024.
///
/// # Errors
/// As for [`size_limit`].
pub fn bytes(text: &str) -> Result<i64, String> {
    let right = || format!("'{text}' is not a size like '512m' or '1g'");
    let lower = text.to_ascii_lowercase();
    let split = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let letter = unit.strip_suffix('b').unwrap_or(unit);
    let factor: i64 = match letter.strip_suffix('i').unwrap_or(letter) {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        _ => return Err(right()),
    };
    let whole = number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor));
    // `1.5g`; bounded before it is made a whole number.
    let part = || number.parse::<f64>().ok().map(|number| number * factor as f64).filter(|size| *size < 9e15);
    whole.or_else(|| part().map(|size| size as i64)).filter(|size| *size >= 0).ok_or_else(right)
}

/// A number of CPUs in billionths; 0 stands for no limit.
pub fn nano_cpus(text: &str) -> Option<i64> {
    let cpus: f64 = text.trim().parse().ok()?;
    // Bounded before it is made a whole number.
    (0.0..=100_000.0).contains(&cpus).then_some((cpus * 1e9).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits() {
        for (text, expected) in [
            ("1144m", 1144_i64 << 20),
            ("1.5g", 1536 << 20),
            ("1GiB", 1 << 30),
            ("2 GB", 2 << 30),
            ("1T", 1 << 40),
            ("0", 0),
            ("7", 7),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        assert_eq!((size_limit("0"), size_limit("1k")), (Ok(None), Ok(Some(1024))));
        for bad in ["", "m", "-1", "1x", "99999999999g", "1  g", "1bb"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors() {
        assert_eq!((nano_cpus("1.5"), nano_cpus("0")), (Some(1_500_000_000), Some(0)));
        for bad in ["", "-1", "x", "NaN", "1e9"] {
            assert_eq!(nano_cpus(bad), None, "{bad}");
        }
    }
}
