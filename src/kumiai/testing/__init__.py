"""What tests need and programs never import: real servers, contract suites, fakes."""
