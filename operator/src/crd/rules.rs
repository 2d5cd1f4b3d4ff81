//! Schemas and rules that several fields share.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An object of someone else's schema; the API server of the cluster checks it when it becomes part of a pod.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of such objects.
pub(super) fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}})
}

/// Amounts by resource name, each a number or a string with a unit.
pub(super) fn amounts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}})
}

/// Flags that the operator sets by itself; an extra argument with one of these names would break what it promises.
pub(super) const OWN_FLAGS: &str = "self.all(arg, !arg.matches('^--?(name|data-dir|boot-ticket|config-file|listen-[a-z-]+|\
initial-[a-z-]+|advertise-[a-z-]+|force-new-cluster|cert-file|key-file|trusted-ca-file|client-cert-auth|peer-[a-z-]+|auto-tls|\
quota-backend-bytes|auto-compaction-[a-z]+|max-request-bytes|heartbeat-interval|election-timeout|log-level)(=|$)'))";
