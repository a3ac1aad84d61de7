"""What an attack does to images: contact sheets of a few (`sheets`), and the files of all (`adversarial`)."""
