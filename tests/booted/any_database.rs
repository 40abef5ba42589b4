//! Databases as a seed makes them: settings, rights, comments, extensions and contents of every kind, with names that need quoting. After
//! a migration that failed each is as it was.

use super::update::{push, start_v1, version};
use super::way_back::{portrait, sql};
use crate::host::apps::*;
use crate::host::sample::{Random, is_soak, seed};

/// What is drawn from a seed.
struct Draw(Random);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    /// A text of signs that some quoting goes wrong at.
    fn text(&mut self, longest: usize) -> String {
        const SIGNS: [&str; 22] = [
            "a", "B", "7", " ", "'", "\"", "\\", ",", ";", "$", "$$", "%", "=", "/", "--", "/*", "ä", "🐘", "{", "}",
            "(", "#",
        ];
        (0..=self.below(longest)).map(|_| self.of(&SIGNS)).collect()
    }

    fn name(&mut self) -> String {
        // PostgreSQL cuts names at 63 bytes.
        let text: String = self.text(12).chars().take(12).collect();
        format!("\"n{}\"", text.replace('"', "\"\""))
    }

    fn literal(&mut self) -> String {
        format!("E'{}'", self.text(30).replace('\\', "\\\\").replace('\'', "\\'"))
    }
}

/// One statement about the database itself, as its superuser.
fn about_database(random: &mut Draw) -> String {
    let role = random.of(&["reader", "\"odd \"\"one\"", "app", "third"]);
    match random.below(11) {
        0 => format!("ALTER DATABASE notes SET search_path TO {}, public, {}", random.name(), random.name()),
        1 => format!("ALTER DATABASE notes SET {} TO {}", random.of(&["my.a", "my.b", "other.x"]), random.literal()),
        2 => format!("ALTER DATABASE notes SET work_mem TO '{}kB'", 64 + random.below(10_000)),
        3 => format!("ALTER DATABASE notes CONNECTION LIMIT {}", 20 + random.below(100)),
        4 => format!("ALTER ROLE {role} IN DATABASE notes SET my.c TO {}", random.literal()),
        5 => format!("ALTER ROLE {role} IN DATABASE notes SET search_path TO {}, public", random.name()),
        6 => format!("COMMENT ON DATABASE notes IS {}", random.literal()),
        7 => format!("REVOKE {} ON DATABASE notes FROM PUBLIC", random.of(&["CONNECT", "TEMPORARY", "ALL"])),
        8 => format!(
            "GRANT {} ON DATABASE notes TO {role} WITH GRANT OPTION",
            random.of(&["CONNECT", "CREATE", "TEMPORARY"])
        ),
        9 => format!("GRANT {} ON DATABASE notes TO PUBLIC", random.of(&["CONNECT", "TEMPORARY"])),
        _ => format!("ALTER ROLE {role} IN DATABASE notes RESET ALL"),
    }
}

/// Something in it, of the app's, in a schema of its own.
fn inside(random: &mut Draw, number: usize) -> String {
    let (name, other) = (random.name(), random.name());
    let schema = format!("s{number}");
    let what = match random.below(9) {
        0 => format!(
            "CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY (START {}), t text DEFAULT {}, u text GENERATED ALWAYS AS (t || 'x') STORED); INSERT INTO {name} (t) SELECT n::text FROM generate_series(1, {}) n",
            1 + random.below(1000),
            random.literal(),
            random.below(2000)
        ),
        1 => format!(
            "CREATE SEQUENCE {name} INCREMENT {}; SELECT setval('{schema}.{}', {})",
            1 + random.below(7),
            name.replace('\'', "''"),
            1 + random.below(100_000)
        ),
        2 => format!(
            "CREATE TYPE {name} AS ENUM ({}, 'z'); CREATE TABLE {other} (e {name}); INSERT INTO {other} VALUES ('z')",
            random.literal()
        ),
        3 => format!(
            "CREATE TABLE {name} (n int) PARTITION BY RANGE (n); CREATE TABLE part PARTITION OF {name} FOR VALUES FROM (0) TO (100); INSERT INTO {name} SELECT generate_series(0, 99)"
        ),
        4 => format!(
            "CREATE FUNCTION {name}(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x + {}'; CREATE TABLE {other} (x int CHECK (x < 10)); CREATE INDEX ON {other} ({name}(x)); INSERT INTO {other} VALUES (1)",
            random.below(9)
        ),
        5 => format!(
            "SELECT lo_from_bytea(0, {}::bytea) FROM generate_series(1, {})",
            "'\\x00ff27'",
            1 + random.below(40)
        ),
        6 => format!(
            "CREATE COLLATION {name} (provider = icu, locale = '{}'); CREATE TABLE {other} (t text COLLATE {name} UNIQUE); INSERT INTO {other} VALUES ('ä'), ('z')",
            random.of(&["de", "sv", "en-u-kn-true"])
        ),
        7 => format!(
            "CREATE TABLE {name} (t text); COMMENT ON TABLE {name} IS {}; GRANT SELECT ON {name} TO reader WITH GRANT OPTION; ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO third",
            random.literal()
        ),
        _ => format!(
            "CREATE VIEW {name} AS SELECT {} AS v; CREATE MATERIALIZED VIEW {other} AS SELECT * FROM {name}",
            random.literal()
        ),
    };
    let extension = random.of(&["", "hstore", "citext", "pgcrypto", "pg_trgm"]);
    let extension = match extension {
        "" => String::new(),
        name => format!("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema};"),
    };
    format!(
        "SET ROLE app; CREATE SCHEMA {schema}; SET search_path TO {schema}, public; {what}; RESET ROLE; RESET search_path; {extension}"
    )
}

#[test]
fn any_database_is_the_same_after_a_migration_that_failed() {
    let seed = seed();
    let mut random = Draw(Random::of(seed));
    let machine = start_v1("anydb");
    keep_note(&machine, "kept");
    push(&machine, "v3");
    machine.ok("appliance update");
    sql(&machine, "postgres", "CREATE ROLE reader; CREATE ROLE \"odd \"\"one\" LOGIN; CREATE ROLE third");
    push(&machine, "v4");
    for round in 0..if is_soak() { 20 } else { 3 } {
        let about: Vec<String> = (0..8).map(|_| about_database(&mut random)).collect();
        sql(&machine, "postgres", &format!("{};", about.join(";\n")));
        let made: Vec<String> = (0..4).map(|part| inside(&mut random, round * 10 + part)).collect();
        sql(&machine, "notes", &made.join("\n"));
        let before = portrait(&machine);
        let out = machine.sh("appliance update --force");
        let what = format!("seed {seed}, round {round}:\n{}\n{}", about.join(";\n"), made.join("\n"));
        assert!(out.code == 1 && out.stderr.contains("the old release runs again"), "{what}\n{}", out.all());
        let after = portrait(&machine);
        if before != after {
            let differs = before.lines().zip(after.lines()).find(|(one, other)| one != other);
            panic!("the database differs: {differs:?}\n{what}");
        }
        assert_eq!((version(&machine).as_str(), notes(&machine)), ("v3", vec!["kept".to_owned()]), "{what}");
    }
}
