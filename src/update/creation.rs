//! The statements that make a database like another one: its properties and its privileges. Pure; who carries them out is `databases.rs`.

use crate::host::{quote_identifier, quote_literal};
use anyhow::{Context, Result};
use std::collections::{BTreeSet, VecDeque};

/// What the app may do with a database, or somebody else by its leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    grantor: String,
    /// `None`: everybody.
    grantee: Option<String>,
    privilege: &'static str,
    is_grantable: bool,
    owner: String,
}

impl Grant {
    pub(super) fn read(row: &[String]) -> Option<Grant> {
        let [grantor, grantee, privilege, is_grantable, owner, is_public] = row else { return None };
        let privilege = ["CONNECT", "CREATE", "TEMPORARY"].into_iter().find(|known| known == privilege)?;
        let grantee = (is_public != "true").then(|| grantee.clone());
        let is_grantable = is_grantable == "true";
        Some(Grant { grantor: grantor.clone(), grantee, privilege, is_grantable, owner: owner.clone() })
    }
}

/// Statements that give a new database these privileges and no others. Whoever hands on a privilege must have it first. Pure.
pub(super) fn privileges(database: &str, grants: &[Grant]) -> String {
    let database = quote_identifier(database);
    let mut sql = format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC; ");
    let owners: BTreeSet<&String> = grants.iter().map(|grant| &grant.owner).collect();
    for owner in &owners {
        sql.push_str(&format!("REVOKE ALL ON DATABASE {database} FROM {}; ", quote_identifier(owner)));
    }
    // The owner may grant whatever it may do itself.
    let mut able: BTreeSet<(String, &str)> = owners
        .iter()
        .flat_map(|owner| ["CONNECT", "CREATE", "TEMPORARY"].map(|privilege| ((*owner).clone(), privilege)))
        .collect();
    let mut waiting: VecDeque<&Grant> = grants.iter().collect();
    let mut idle = 0;
    while let Some(grant) = waiting.pop_front() {
        if !able.contains(&(grant.grantor.clone(), grant.privilege)) {
            waiting.push_back(grant);
            idle += 1;
            // Of a circle, which PostgreSQL does not allow, nothing would be granted.
            if idle > waiting.len() {
                break;
            }
            continue;
        }
        idle = 0;
        let to = grant.grantee.as_deref().map_or("PUBLIC".to_owned(), quote_identifier);
        let option = if grant.is_grantable { " WITH GRANT OPTION" } else { "" };
        sql.push_str(&format!(
            "SET LOCAL ROLE {}; GRANT {} ON DATABASE {database} TO {to}{option}; RESET ROLE; ",
            quote_identifier(&grant.grantor),
            grant.privilege
        ));
        if let Some(grantee) = grant.grantee.as_ref().filter(|_| grant.is_grantable) {
            able.insert((grantee.clone(), grant.privilege));
        }
    }
    sql
}

/// The statement that makes a database like the one whose row it is, from a template. Pure.
pub(super) fn creation(fresh: &str, template: &str, row: &serde_json::Value, version: (u32, u32)) -> Result<String> {
    let text = |column: &str| row.get(column).and_then(serde_json::Value::as_str).map(str::to_owned);
    let needed = |column: &str| text(column).with_context(|| format!("PostgreSQL does not tell {column}"));
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE {} OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {} TABLESPACE {}",
        quote_identifier(fresh),
        quote_identifier(template),
        quote_identifier(&needed("owner")?),
        quote_literal(&needed("encoding")?),
        quote_literal(&needed("datcollate")?),
        quote_literal(&needed("datctype")?),
        quote_identifier(&needed("tablespace")?)
    );
    let locale = text("datlocale").or_else(|| text("daticulocale"));
    match text("datlocprovider").as_deref() {
        Some("i") => {
            sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", quote_literal(&locale.unwrap_or_default())));
            if let Some(rules) = text("daticurules") {
                sql.push_str(&format!(" ICU_RULES {}", quote_literal(&rules)));
            }
        }
        Some("b") => {
            sql.push_str(&format!(
                " LOCALE_PROVIDER builtin BUILTIN_LOCALE {}",
                quote_literal(&locale.unwrap_or_default())
            ));
        }
        Some(_) => sql.push_str(" LOCALE_PROVIDER libc"),
        None => {}
    }
    // Of a library that is newer by now, too: what is copied was sorted by the old one.
    if let Some(collation) = text("datcollversion") {
        sql.push_str(&format!(" COLLATION_VERSION {}", quote_literal(&collation)));
    }
    if version >= (15, 0) && template != "template0" {
        sql.push_str(" STRATEGY file_copy");
    }
    if let Some(limit) = row.get("datconnlimit").and_then(serde_json::Value::as_i64) {
        sql.push_str(&format!(" CONNECTION LIMIT {limit}"));
    }
    if row.get("datistemplate").and_then(serde_json::Value::as_bool) == Some(true) {
        sql.push_str(" IS_TEMPLATE true");
    }
    Ok(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_as_each_version_describes_it() {
        let of = |row: serde_json::Value, version| creation("a_before", "a", &row, version).expect("a statement");
        let old = serde_json::json!({"owner": "app", "encoding": "UTF8", "datcollate": "C.UTF-8", "datctype": "C", "tablespace": "pg_default",
                                     "datconnlimit": -1, "datistemplate": false});
        assert_eq!(
            of(old.clone(), (13, 0)),
            "CREATE DATABASE \"a_before\" TEMPLATE \"a\" OWNER \"app\" ENCODING E'UTF8' LC_COLLATE E'C.UTF-8' LC_CTYPE E'C' TABLESPACE \
             \"pg_default\" CONNECTION LIMIT -1"
        );
        let with = |more: serde_json::Value| {
            let mut row = old.clone();
            let map = row.as_object_mut().expect("an object");
            map.extend(more.as_object().expect("an object").clone());
            row
        };
        let icu = with(
            serde_json::json!({"datlocprovider": "i", "daticulocale": "de-AT", "datcollversion": "153.120", "datconnlimit": 7}),
        );
        let sql = of(icu, (15, 0));
        assert!(
            sql.ends_with(
                "LOCALE_PROVIDER icu ICU_LOCALE E'de-AT' COLLATION_VERSION E'153.120' STRATEGY file_copy CONNECTION LIMIT 7"
            ),
            "{sql}"
        );
        let builtin = of(with(serde_json::json!({"datlocprovider": "b", "datlocale": "C.UTF-8"})), (17, 0));
        assert!(builtin.contains("LOCALE_PROVIDER builtin BUILTIN_LOCALE E'C.UTF-8' STRATEGY"), "{builtin}");
        assert!(creation("a", "b", &serde_json::json!({}), (15, 0)).is_err());
    }

    #[test]
    fn whoever_hands_a_privilege_on_has_it_first() {
        let grant = |grantor: &str, grantee: Option<&str>, is_grantable| Grant {
            grantor: grantor.to_owned(),
            grantee: grantee.map(str::to_owned),
            privilege: "CONNECT",
            is_grantable,
            owner: "app".to_owned(),
        };
        // In the wrong order, and one by somebody who has nothing to give.
        let sql = privileges(
            "x",
            &[
                grant("b", Some("c"), false),
                grant("a", Some("b"), true),
                grant("app", Some("a"), true),
                grant("z", None, false),
            ],
        );
        let at = |text: &str| sql.find(text).unwrap_or_else(|| panic!("{text} in {sql}"));
        assert!(at("TO \"a\" WITH GRANT OPTION") < at("TO \"b\" WITH GRANT OPTION"));
        assert!(at("TO \"b\"") < at("SET LOCAL ROLE \"b\"; GRANT CONNECT ON DATABASE \"x\" TO \"c\";"));
        assert!(!sql.contains("TO PUBLIC"), "{sql}");
        assert!(
            sql.starts_with("REVOKE ALL ON DATABASE \"x\" FROM PUBLIC; REVOKE ALL ON DATABASE \"x\" FROM \"app\"; ")
        );
    }
}
