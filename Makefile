# Every word here is a command of dev.py, which does the work: python3 dev.py help
# More words go through ARGS: make unit ARGS='-k codec'

PYTHON ?= python3
COMMANDS = setup demo test check format lint types unit integration system chaos soak bench docs \
	proto torch clean

.PHONY: help $(COMMANDS)

help:
	@$(PYTHON) dev.py help

$(COMMANDS):
	@$(PYTHON) dev.py $@ $(ARGS)
