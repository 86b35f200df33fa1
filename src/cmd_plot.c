/* lora plot: pictures of what adapters are made of. */
#include "cmd.h"
#include "output.h"
#include "plot.h"

typedef struct plot_settings {
    int what;
} plot_settings;

/* The choices of --what and, in the same order, who draws them; the first is
 * drawn where none is asked for. */
static const opt_spec plot_options[] = {
    {"what", 0, OPT_CHOICE, "spectrum", "the picture (spectrum)",
     offsetof(plot_settings, what), 0, 0, 0},
    {NULL, 0, OPT_FLAG, NULL, NULL, 0, 0, 0, 0},
};

static const plot_fn plot_pictures[] = {plot_spectrum};

static int
plot_run(app_state *app, int count, char **operands, const void *settings)
{
    const plot_settings *own = settings;
    svg picture = {NULL, 0, 0, 0};
    int code = output_check_text(app);
    if (code == 0) {
        plot_fn draw = plot_pictures[own->what > 0 ? own->what - 1 : 0];
        code = draw(app, &picture, count, operands);
    }
    if (code == 0) {
        code = output_save_text(app, picture.text, picture.bytes);
    }
    svg_release(&picture);
    return code;
}

const app_verb cmd_plot = {
    "plot",
    "FILE... -o OUT.svg",
    "a picture of the singular values, as SVG",
    "lora plot style.safetensors -o style.svg\t"
    "how much each direction of a layer does\n"
    "lora plot epoch-4.safetensors epoch-8.safetensors -o epochs.svg\t"
    "several in one picture\n"
    "lora plot style.safetensors -o - | rsvg-convert -o style.png\t"
    "for another program\n",
    "The picture opens in any browser and is light or dark as its\n"
    "surroundings are. It shows the singular values of the scaled weight\n"
    "changes, what each rank would keep of them, the effective ranks, and the\n"
    "layers with the largest values.\n",
    plot_options,
    OPT_GROUP_TALK | OPT_GROUP_CONTEXT | OPT_GROUP_INPUT | OPT_GROUP_FORCE |
        OPT_GROUP_OUTPUT | OPT_GROUP_SKIP_BAD,
    sizeof(plot_settings),
    VERB_CONTEXT,
    1,
    -1,
    plot_run,
};
