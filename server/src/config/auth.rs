//! `--auth-token`: which tokens are given out. In: raw settings. Out: [`AuthToken`]. Key files are named here and read by
//! the auth room.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::model::{AuthToken, JwtMethod};
use super::settings::Settings;
use super::value::parse_duration;

pub(super) fn token(s: &Settings) -> Result<AuthToken, ConfigError> {
    const FLAG: &str = "auth-token";
    let mut words = s.text(FLAG).split(',');
    let kind = words.next().unwrap_or_default();
    let mut options = BTreeMap::new();
    for word in words {
        let pair = word.split_once('=').filter(|(_, value)| !value.contains('='));
        let (key, value) =
            pair.ok_or_else(|| ConfigError::refused(FLAG, format!("invalid auth options: {word:?} is not key=value")))?;
        if options.insert(key, value).is_some() {
            return Err(ConfigError::refused(FLAG, format!("invalid auth options: {key} is given twice")));
        }
    }
    match kind {
        "" => Ok(AuthToken::None),
        "simple" => {
            let ttl = Duration::from_secs(match s.uint("auth-token-ttl")? {
                0 => 300,
                seconds => seconds.min(u64::from(u32::MAX)),
            });
            Ok(AuthToken::Simple { ttl })
        }
        "jwt" => jwt(&options).map_err(|reason| ConfigError::refused(FLAG, reason)),
        other => Err(ConfigError::refused(FLAG, format!("invalid auth options: unknown token type {other:?} (simple or jwt)"))),
    }
}

fn jwt(options: &BTreeMap<&str, &str>) -> Result<AuthToken, String> {
    if let Some(key) = options.keys().find(|key| !["pub-key", "priv-key", "sign-method", "ttl"].contains(key)) {
        return Err(format!("unknown jwt option {key:?} (pub-key, priv-key, sign-method, ttl)"));
    }
    let file = |key: &str| options.get(key).filter(|path| !path.is_empty()).map(PathBuf::from);
    let method = match options.get("sign-method").copied().unwrap_or_default() {
        "RS256" => JwtMethod::Rs256,
        "RS384" => JwtMethod::Rs384,
        "RS512" => JwtMethod::Rs512,
        "PS256" => JwtMethod::Ps256,
        "PS384" => JwtMethod::Ps384,
        "PS512" => JwtMethod::Ps512,
        "ES256" => JwtMethod::Es256,
        "ES384" => JwtMethod::Es384,
        "ES512" => JwtMethod::Es512,
        "HS256" => JwtMethod::Hs256,
        "HS384" => JwtMethod::Hs384,
        "HS512" => JwtMethod::Hs512,
        "EdDSA" => JwtMethod::EdDsa,
        "" => return Err("jwt needs sign-method".to_owned()),
        other => return Err(format!("invalid auth method {other:?}")),
    };
    let ttl = match options.get("ttl").copied().unwrap_or_default() {
        "" => Duration::from_secs(300),
        text => parse_duration(text).map_err(|reason| format!("jwt ttl {text:?}: {reason}"))?,
    };
    let (public_key, private_key) = (file("pub-key"), file("priv-key"));
    if public_key.is_none() && private_key.is_none() {
        return Err("jwt needs pub-key or priv-key".to_owned());
    }
    if private_key.is_none() && matches!(method, JwtMethod::Hs256 | JwtMethod::Hs384 | JwtMethod::Hs512) {
        return Err("jwt with an HS method needs priv-key".to_owned());
    }
    Ok(AuthToken::Jwt { method, public_key, private_key, ttl })
}
