"""The same function as `videopoet sample inpainting-central`, as a script."""

from videopoet.commands.sample import script

if __name__ == "__main__":
    script("inpainting-central")
