"""From a sweep to rows on disk: plan, estimate, execute, audit, store."""
