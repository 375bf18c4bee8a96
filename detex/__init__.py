"""DETEX for ComfyUI: learn a subject as [V], its poses as [P_i], its backgrounds as [B_i].

The map of the house, in the order in which data flows:

photos/         what goes in
  folder          a folder of photos and masks, read in a stable order
  pixels          a picture file's pixels, whatever range it stores them in
  checks          what is refused, and why
  crop            the square that training sees
  framing         scaled copies of a photo
  segment         which of a segmenter's masks is the subject
  photos          crop, blank, scale, encode: the value `Photos`
  concepts        one photo of several things, and which is which
  places          pictures of places and their names
  composites      a subject on another ground, pixel by pixel
  recipe          which composites a subject trains on, and what their prompts say
  varied          pictures of different individuals of one kind
prompt/         what is said
  grammar         [V], [P2], [B1] in a text; `Named`; training captions
  words           learned words: vectors, attribute mappers
  captions        neutral captions, for merging
  prompt_table    every line with every pose and background
unet/           what is asked
  interfaces      all that the core asks of a host: denoiser, text encoder
  condition       what the UNet is told beside the latents
  schedules       noise by timestep, and the UNet's target: eps, v, flow
  attention       attention maps: taps while training, capture while sampling
  deltas          additions to linear layers, full or of low rank
  coded           two LoRAs in a layer, one of which a picture's code scales
  codes           where the codes come from
  features        activations of the output blocks, collected
  losses          every loss, pure
  transfer        small tensors on their way to the device
methods/        what is learned: the register, what methods share (base), one file a method
  detex, custom_diffusion, textual_inversion, dreambooth_lora, disendiff, dis2booth
training/       how
  config          steps, rates, seed
  presets         from a quick look to the paper's amounts
  loop            draw, predict, losses, step; watchers
  average         of the last steps' weights
  steady          the loss on fixed draws
  pace            how long the rest takes, from the first steps
  snapshot        the state of a run in a file
  memory          how many passes a step takes
  live            the picture on the node
concept/        what comes out
  file            one .safetensors: words, deltas, facts
  individuals     new individuals of a distribution
  merge           several concepts in one
  compress        deltas at a smaller rank
  lora_metadata, diffusers_readme   what other tools are told
  files           files that are whole or not there
evaluate/       how good it is
  scores          scores of maps and of features, pure
  masked          the subject alone, its background alone
  encoder         what makes features, and the hash of its weights
  folder_encoder  encoders from a folder of weights, for the papers' own numbers
  scoring         pictures, prompts and photos through any encoders
  evaluation      the value `Evaluation`: scores, one a picture, each with its encoder
  measures        what each score says, and which stand for a concept
  report          an evaluation in words; its pictures from best to worst
  verdict         of several evaluations: what is sure, what may be noise
  plots           charts of evaluations
  knee            which step of a training is best
  live_scores     the same by its live samples, a hint
  averages        pictures, prompts, subjects
  command         `python -m detex.evaluate`: the papers' protocols
  benchmark       what one of them has of its own
  dreambench, disendiff            the two: their data sets
  recipes, workflows               their methods, what the servers run
  protocol, protocol_page          their steps, their tables and pictures
  paired          bootstrap intervals and paired tests over subjects
canvas/         what is shown: sheets, grids, charts, masks over photos
batch/          many jobs: the rows of a table through a workflow, on one ComfyUI server or many
toys/           the demo world and its model
toyland/        the next demo world: toys with faces, hats and feet, one or two in a picture
  bodies          shapes, and where their parts sit
  parts           faces, hats and feet, which no caption names
  silhouette      a toy's outline, its parts included
  reach           the box around it, so that nothing is cut
  scene           the factors of a picture, drawn at random and placed
  render          pictures and masks
  captions        what is said of them
  subjects        photos of one toy, of two, and of many that vary by a law
host/           the only room that knows ComfyUI

Shapes: B batch, R prior images, N photos, K copies of a photo, H heads, L = h*w latent positions,
T text tokens, C channels, D head width, h and w latent cells, F image-feature width.

Papers: DETEX, arXiv 2312.11826; DisenDiff, arXiv 2403.18551; Custom Diffusion, arXiv 2212.04488;
Textual Inversion, arXiv 2208.01618; DreamBooth, arXiv 2208.12242; LoRA, arXiv 2106.09685.
Of Dis2Booth (AAAI 2025, 10.1609/aaai.v39i3.32279) only the abstract is public.
Only `detex.host` and `nodes` import ComfyUI.
"""
