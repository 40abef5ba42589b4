//! What single values of env.yml may look like, for editors.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Declares a type that is nothing but its schema.
macro_rules! described {
    ($name:ident, $($schema:tt)*) => {
        pub struct $name;
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)*)
            }
        }
    };
}

described!(Boolean, {
    "anyOf": [
        { "type": "boolean" },
        { "type": "string", "pattern": "^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo]|[Oo][Nn]|[Oo][Ff][Ff])$" }
    ]
});
described!(Text, { "type": ["string", "number", "boolean"] });
described!(Words, { "type": ["string", "array"], "items": { "type": "string" } });
described!(Path, { "type": "string", "pattern": "^/[^/]" });
described!(DomainName, { "type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$" });
described!(Pem, { "type": "string", "pattern": "^\\s*(-----BEGIN |/)" });
described!(Mode, { "type": ["string", "integer"] });
described!(Repository, { "type": "string", "pattern": "^(https?|ssh|git|file)://|^/|^[^@ ]+@[^: ]+:" });
described!(CommitId, { "type": "string", "pattern": "^([0-9a-fA-F]{40}|[0-9a-fA-F]{64})$" });
described!(Name, { "type": "string", "pattern": "^[a-z][a-z0-9-]{0,30}$" });
described!(EcsName, { "const": "ecs" });
described!(SizeText, { "type": ["string", "integer"], "pattern": "^[0-9][0-9.]* ?([kKmMgGtTpP][iI]?)?[bB]?$" });
described!(Cpus, { "type": ["string", "number"] });
described!(Local, { "enum": ["keep", "merge"] });
described!(Binds, { "enum": ["own", "any"] });
described!(Command, { "type": ["string", "array"], "items": { "type": "string" } });
described!(Keys, { "type": ["string", "array"], "items": { "type": "string" } });
described!(Setup, {
    "type": ["object", "string"],
    "properties": {
        "parted": { "type": "object", "description": "By disk: type (gpt, mbr), parts (name, start, end, flags)." },
        "mdadm": { "type": "object", "description": "By device: level, devices." },
        "crypt": { "type": "object", "description": "By device: password or keyfile, target." },
        "lvm": {
            "type": "object",
            "properties": {
                "pv": { "type": "array", "description": "Devices." },
                "vg": { "type": "object", "description": "By group: devices." },
                "lv": { "type": "object", "description": "By volume: vgname, size, expand." }
            }
        },
        "format": { "type": "object", "description": "By device: fstype, options." },
        "mount": { "type": "object", "description": "By directory: device, fstype, options." },
        "swap": { "type": "array", "description": "Devices." }
    }
});
