"""The client of a site: one session, one worker, the data never leave."""
