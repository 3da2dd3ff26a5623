//! `meterline demo`.

use anyhow::{Result, bail};

use crate::{args::DemoArgs, exit::Exit};

pub(crate) fn demo(_: &DemoArgs) -> Result<Exit> {
    bail!("not built yet")
}
