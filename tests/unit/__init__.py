"""Rules of single modules: no files, no network, no sleep; all of them together run in seconds."""
