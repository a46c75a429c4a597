// Two ways to draw: WebGL, and a canvas without it. Both take panes with a rectangle in device pixels,
// and draw every `step`th point.

const PERSPECTIVE = 0.22, FADE = 0.5, OUTLINE_ALPHA = 0.2;
const SIZES = [0, 0.72, 1, 2.2];  // by HIDDEN, FAINT, NORMAL, LARGE

// Rows: what is right, up and towards the viewer.
function turnMatrix({ azimuth, elevation }) {
  const [ca, sa] = [Math.cos(azimuth), Math.sin(azimuth)];
  const [ce, se] = [Math.cos(elevation), Math.sin(elevation)];
  return [-sa, ca, 0, -se * ca, -se * sa, ce, ce * ca, ce * sa, se];
}

// Where the points of a pane are on the canvas: factor * x / w + middle.
function placement(pane, camera) {
  const { x, y, width, height } = pane.rect, side = Math.min(width, height);
  return {
    turn: turnMatrix(camera), factor: 0.46 * side * camera.zoom,
    middleX: x + width / 2 + camera.panX * side, middleY: y + height / 2 + camera.panY * side,
  };
}

function project({ turn, factor, middleX, middleY }, xyz, row) {
  const x = xyz[3 * row], y = xyz[3 * row + 1], z = xyz[3 * row + 2];
  const near = turn[6] * x + turn[7] * y + turn[8] * z, w = 1 - PERSPECTIVE * near;
  return {
    near, w, x: middleX + factor * (turn[0] * x + turn[1] * y + turn[2] * z) / w,
    y: middleY - factor * (turn[3] * x + turn[4] * y + turn[5] * z) / w,
  };
}

const VERTEX = `
attribute vec3 position; attribute vec4 tint;
uniform mat3 turn; uniform vec4 view; uniform vec4 sizes; uniform float size; uniform vec3 background;
varying vec3 color; varying float diameter;
void main() {
  vec3 p = turn * position;
  float w = 1.0 - ${PERSPECTIVE.toFixed(2)} * p.z;
  int style = int(tint.a * 255.0 + 0.5);
  float share = style == 0 ? sizes.x : style == 1 ? sizes.y : style == 2 ? sizes.z : sizes.w;
  diameter = size * share / w;
  // Whatever is not faint lies before all that is.
  float depth = -0.4 * clamp(p.z, -1.2, 1.2) + (style == 1 ? 0.5 : -0.5);
  gl_Position = style == 0 ? vec4(2.0, 2.0, 2.0, 1.0) : vec4(view.xy * p.xy / w + view.zw, depth, 1.0);
  gl_PointSize = max(diameter, 1.0);
  color = mix(tint.rgb, background, ${FADE.toFixed(2)} * clamp(0.5 - 0.5 * p.z, 0.0, 1.0));
}`;
const FRAGMENT = `
precision mediump float;
varying vec3 color; varying float diameter;
uniform float alpha; uniform bool soft;
void main() {
  float r = length(2.0 * gl_PointCoord - 1.0);
  float cover = diameter < 2.0 ? 1.0 : clamp(0.5 + 0.5 * diameter * (1.0 - r), 0.0, 1.0);
  if (cover < (soft || alpha < 1.0 ? 0.03 : 0.5)) discard;
  float rim = diameter < 5.0 ? 0.0 : 0.28 * smoothstep(0.55, 1.0, r);
  gl_FragColor = vec4(color * (1.0 - rim), alpha < 1.0 ? alpha * cover : soft ? cover : 1.0);
}`;

function createWebGL(canvas, onRestored) {
  const options = { antialias: true, alpha: false, depth: true, powerPreference: "high-performance" };
  const gl = canvas.getContext("webgl2", options) || canvas.getContext("webgl", options);
  if (!gl) return null;
  let program, places, buffers;
  function setUp() {
    program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return false;
    gl.useProgram(program);
    places = {};
    for (const name of ["turn", "view", "sizes", "size", "background", "alpha", "soft"]) {
      places[name] = gl.getUniformLocation(program, name);
    }
    for (const name of ["position", "tint"]) {
      places[name] = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(places[name]);
    }
    gl.enable(gl.SCISSOR_TEST);
    gl.enable(gl.DEPTH_TEST);
    gl.uniform4fv(places.sizes, SIZES);
    buffers = new Map();
    return true;
  }
  if (!setUp()) return null;
  const samples = gl.getParameter(gl.SAMPLES) > 1;
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => setUp() && onRestored());

  // Every `step`th entry of an array of `size` numbers for each point.
  function bind(place, array, size, type, normalized, step) {
    let buffer = buffers.get(array);
    if (!buffer) {
      buffer = gl.createBuffer();
      buffers.set(array, buffer);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
    } else {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    }
    gl.vertexAttribPointer(place, size, type, normalized, step * size * array.BYTES_PER_ELEMENT, 0);
  }

  return {
    name: "WebGL",
    forget(array) {
      gl.deleteBuffer(buffers.get(array) || null);
      buffers.delete(array);
    },
    draw(panes, camera, background, step) {
      if (gl.isContextLost()) return;
      const { width, height } = canvas;
      gl.viewport(0, 0, width, height);
      gl.scissor(0, 0, width, height);
      gl.clearColor(...background.map((value) => value / 255), 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniform3fv(places.background, background.map((value) => value / 255));
      for (const pane of panes) {
        const place = placement(pane, camera), { clip, cloud } = pane;
        gl.scissor(clip.x, height - clip.y - clip.height, clip.width, clip.height);
        const t = place.turn;  // by columns
        gl.uniformMatrix3fv(places.turn, false, [t[0], t[3], t[6], t[1], t[4], t[7], t[2], t[5], t[8]]);
        gl.uniform4f(places.view, 2 * place.factor / width, 2 * place.factor / height,
          2 * place.middleX / width - 1, 1 - 2 * place.middleY / height);
        gl.uniform1f(places.alpha, 1);
        gl.uniform1i(places.soft, samples ? 1 : 0);
        gl.uniform1f(places.size, pane.size);
        (samples ? gl.enable : gl.disable).call(gl, gl.SAMPLE_ALPHA_TO_COVERAGE);
        bind(places.position, cloud.xyz, 3, gl.FLOAT, false, step);
        bind(places.tint, pane.tints, 4, gl.UNSIGNED_BYTE, true, step);
        gl.drawArrays(gl.POINTS, 0, Math.ceil(cloud.count / step));
        if (!pane.outline) continue;
        gl.disable(gl.SAMPLE_ALPHA_TO_COVERAGE);
        gl.enable(gl.BLEND);
        gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ZERO, gl.ONE);
        gl.depthMask(false);
        gl.uniform1f(places.alpha, OUTLINE_ALPHA);
        gl.uniform1f(places.size, pane.outline.size);
        bind(places.position, pane.outline.xyz, 3, gl.FLOAT, false, 1);
        gl.disableVertexAttribArray(places.tint);
        gl.vertexAttrib4f(places.tint, ...pane.outline.color.map((value) => value / 255), NORMAL / 255);
        gl.drawArrays(gl.POINTS, 0, pane.outline.xyz.length / 3);
        gl.enableVertexAttribArray(places.tint);
        gl.depthMask(true);
        gl.disable(gl.BLEND);
      }
    },
  };
}

function createPlain(canvas) {
  const context = canvas.getContext("2d", { alpha: false });
  const discs = new Map();  // half widths of the rows of a disc, by its diameter
  function discOf(diameter) {
    if (!discs.has(diameter)) {
      const radius = diameter / 2;
      discs.set(diameter, Array.from({ length: diameter }, (_, row) =>
        Math.sqrt(Math.max(0, radius ** 2 - (row + 0.5 - radius) ** 2))));
    }
    return discs.get(diameter);
  }
  let image, pixels, depths;
  const pack = (r, g, b) => 0xff000000 | b << 16 | g << 8 | r;

  // A color over what was drawn; the shade of a point goes to the pixels of its disc.
  function stamp(clip, x, y, diameter, depth, r, g, b, alpha) {
    const disc = discOf(diameter), start = Math.round(y - diameter / 2), full = pack(r, g, b);
    const end = Math.min(start + diameter, clip.y + clip.height);
    for (let row = Math.max(start, clip.y); row < end; row++) {
      const half = disc[row - start];
      const from = row * image.width + Math.max(clip.x, Math.round(x - half));
      const to = row * image.width + Math.min(clip.x + clip.width, Math.round(x + half));
      for (let at = from; at < to; at++) {
        if (depth <= depths[at]) continue;
        if (alpha < 1) {
          const old = pixels[at], keep = 1 - alpha;
          pixels[at] = pack(alpha * r + keep * (old & 255), alpha * g + keep * (old >> 8 & 255),
            alpha * b + keep * (old >> 16 & 255));
        } else {
          depths[at] = depth;
          pixels[at] = full;
        }
      }
    }
  }

  function drawPoints({ turn: t, factor, middleX, middleY }, clip, points, background) {
    const { xyz, tints, flat, size, alpha, step } = points;
    for (let i = 0; i < xyz.length / 3; i += step) {
      const style = tints ? tints[4 * i + 3] : NORMAL;
      if (style === HIDDEN) continue;
      const x = xyz[3 * i], y = xyz[3 * i + 1], z = xyz[3 * i + 2];
      const near = t[6] * x + t[7] * y + t[8] * z, w = 1 - PERSPECTIVE * near;
      const fade = FADE * Math.min(1, Math.max(0, 0.5 - 0.5 * near));
      const shade = (k) => (1 - fade) * (tints ? tints[4 * i + k] : flat[k]) + fade * background[k];
      stamp(clip, middleX + factor * (t[0] * x + t[1] * y + t[2] * z) / w,
        middleY - factor * (t[3] * x + t[4] * y + t[5] * z) / w,
        Math.max(1, Math.round(size * SIZES[style] / w)), near - (style === FAINT ? 4 : 0),
        shade(0), shade(1), shade(2), alpha);
    }
  }

  return {
    name: "canvas",
    forget() {},
    draw(panes, camera, background, step) {
      if (!image || image.width !== canvas.width || image.height !== canvas.height) {
        image = context.createImageData(canvas.width, canvas.height);
        pixels = new Int32Array(image.data.buffer);  // little-endian, as all browsers' machines are
        depths = new Float32Array(pixels.length);
      }
      pixels.fill(pack(...background));
      depths.fill(-Infinity);
      for (const pane of panes) {
        const place = placement(pane, camera), { cloud, tints, size, clip, outline } = pane;
        drawPoints(place, clip, { xyz: cloud.xyz, tints, size, alpha: 1, step }, background);
        if (!outline) continue;
        const seen = { xyz: outline.xyz, flat: outline.color, size: outline.size, alpha: OUTLINE_ALPHA };
        drawPoints(place, clip, { ...seen, step: 1 }, background);
      }
      context.putImageData(image, 0, 0);
    },
  };
}
