"""Values kept near: an accelerator without which everything is right as well."""
