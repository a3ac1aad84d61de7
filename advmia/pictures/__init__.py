"""What an attack does to images: contact sheets, and the attacked images as files."""
