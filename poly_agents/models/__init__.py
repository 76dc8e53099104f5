"""From files to rankers: `opening` reads them, `building` makes the modules, `textranker` is what a program calls."""
