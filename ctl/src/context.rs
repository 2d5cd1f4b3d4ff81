//! What a command gets to work with: its words, its flags, a client, a printer.

use bytes::Bytes;
use quorate_client::{Client, Config, Error};

use crate::failure::{self, Done};
use crate::flags::Parsed;
use crate::global;
use crate::print::{self, Printer};

/// The input of one command.
pub struct Context {
    /// Values of all flags.
    pub flags: Parsed,
    /// The name we were called by, for texts.
    pub program: &'static str,
}

impl Context {
    /// Words that are no flags.
    pub fn args(&self) -> &[Bytes] {
        &self.flags.words
    }

    /// A word as text.
    pub fn text(&self, at: usize) -> String {
        String::from_utf8_lossy(&self.flags.words[at]).into_owned()
    }

    /// The client's settings and the printer, from flags and environment. Commands check their own words before.
    pub fn open(&mut self) -> Done<(Config, Box<dyn Printer>)> {
        global::read_environment(&mut self.flags)?;
        let config = global::config(&self.flags)?;
        let printer = print::printer(self.flags.text("write-out"), self.flags.bool("hex"))
            .ok_or_else(|| failure::bad_feature("unsupported output format"))?;
        Ok((config, printer))
    }

    /// A client whose calls end with `--command-timeout`, and the printer.
    pub async fn connect(&mut self) -> Done<(Client, Box<dyn Printer>)> {
        let (config, printer) = self.open()?;
        Ok((client(config).await?, printer))
    }

    /// A client whose calls wait for as long as it takes, and the printer.
    pub async fn connect_patiently(&mut self) -> Done<(Client, Box<dyn Printer>)> {
        let (client, printer) = self.connect().await?;
        Ok((client.timeout(None), printer))
    }
}

/// A client that has signed in, if it is to. Wrong settings are wrong arguments, a refused sign-in is a bad connection.
pub async fn client(config: Config) -> Done<Client> {
    let limit = config.dial_timeout;
    let client = Client::new(config).map_err(failure::bad_args)?;
    let signed_in = tokio::time::timeout(limit, client.sign_in_first()).await;
    signed_in.unwrap_or(Err(Error::Timeout)).map_err(failure::bad_connection)?;
    Ok(client)
}
