//! The processors of the preset.

use meterline_config::{Loaded, Registry, Source, load};
use meterline_core::{BuildContext, Processor};

/// Returns the processors of the preset, as a pipeline thread has them, with the components of `registry`.
pub(crate) fn processors(registry: &Registry) -> Vec<Box<dyn Processor>> {
    let source = Source {
        name: "preset".to_owned(),
        text: include_str!("../../presets/kubernetes-pod-exec-time.yaml").to_owned(),
        dir: None,
    };
    let Loaded { processors, .. } = match load(&source, &[], &|_: &str| None, registry) {
        Ok((loaded, _)) => loaded,
        Err(errors) => unreachable!("{errors:?}"),
    };
    let cx = BuildContext::default();
    let build = processors.iter().map(|plan| plan.build(&cx));
    match build.collect() {
        Ok(processors) => processors,
        Err(error) => unreachable!("{error:?}"),
    }
}
